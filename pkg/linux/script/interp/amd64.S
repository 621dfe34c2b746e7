# The interpreter of a script on amd64: walks the list of operations and makes
# one system call for each. It is the whole program text of a container's first
# process until that process executes the user's program. Position dependent;
# every address it meets is absolute, fixed by image.go.
#
# Assembled by `go generate ./pkg/linux/script`; the test checks that the
# committed .bin is what this file assembles to.
#
#   rbx  the current operation      r12  its indirection mask and flags
#   r13  what the system call returned
#
# An operation is 13 words; image.go lays them out.

	.intel_syntax noprefix
	.set OP_NR, 0
	.set OP_ARG, 8
	.set OP_OK, 56
	.set OP_ERR, 64
	.set OP_ACCEPT, 72
	.set OP_OUT, 80
	.set OP_RES, 88
	.set OP_MASK, 96
	.set TIMED, 8          # bit of MASK
	.set FIRST, 0x500000   # image.go: dataBase
	.set FAILED, 0x600000000 # image.go: resultBase

	.text
	mov ebx, FIRST
next:
	mov r12, [rbx+OP_MASK]
	bt r12, TIMED
	jnc 1f
	mov rsi, [rbx+OP_RES]     # clock_gettime(CLOCK_MONOTONIC, &result.start)
	add rsi, 8
	mov edi, 1
	mov eax, 228
	syscall
1:
	mov rdi, [rbx+OP_ARG]     # each argument: a value, or with its mask bit
	bt r12, 0              # set the address of a variable
	jnc 2f
	mov rdi, [rdi]
2:	mov rsi, [rbx+OP_ARG+8]
	bt r12, 1
	jnc 2f
	mov rsi, [rsi]
2:	mov rdx, [rbx+OP_ARG+16]
	bt r12, 2
	jnc 2f
	mov rdx, [rdx]
2:	mov r10, [rbx+OP_ARG+24]
	bt r12, 3
	jnc 2f
	mov r10, [r10]
2:	mov r8, [rbx+OP_ARG+32]
	bt r12, 4
	jnc 2f
	mov r8, [r8]
2:	mov r9, [rbx+OP_ARG+40]
	bt r12, 5
	jnc 2f
	mov r9, [r9]
2:	mov rax, rdi           # no call: the result is the first argument
	cmp qword ptr [rbx+OP_NR], -1
	je 2f
	mov rax, [rbx+OP_NR]
	syscall
2:	mov r13, rax
	bt r12, TIMED
	jnc 1f
	mov rsi, [rbx+OP_RES]     # clock_gettime(CLOCK_MONOTONIC, &result.end)
	add rsi, 24
	mov edi, 1
	mov eax, 228
	syscall
1:
	mov rsi, [rbx+OP_RES]
	test rsi, rsi
	jz 1f
	mov [rsi], r13
1:
	cmp r13, -4095
	jae failed
	mov rsi, [rbx+OP_OUT]
	test rsi, rsi
	jz accepted
	mov [rsi], r13
accepted:
	mov rbx, [rbx+OP_OK]
	jmp next
failed:
	neg r13
	cmp r13, [rbx+OP_ACCEPT]
	je accepted
	mov rdi, [rbx+OP_ERR]
	test rdi, rdi
	jz fatal
	mov rbx, rdi
	jmp next
fatal:
	mov rsi, [rbx+OP_RES]     # results may not be mapped yet
	test rsi, rsi
	jz 1f
	movabs rsi, FAILED
	mov [rsi], rbx
1:
	mov edi, 1
	mov eax, 231           # exit_group(1)
	syscall
	ud2
