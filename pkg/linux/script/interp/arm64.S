// The interpreter of a script on arm64; see amd64.S, of which this is a
// translation.
//
//   x19  the current operation      x20  its indirection mask and flags
//   x21  what the system call returned

	.set OP_NR, 0
	.set OP_ARG, 8
	.set OP_OK, 56
	.set OP_ERR, 64
	.set OP_ACCEPT, 72
	.set OP_OUT, 80
	.set OP_RES, 88
	.set OP_MASK, 96
	.set TIMED, 8          // bit of MASK

	.text
	movz x19, #0x50, lsl #16 // image.go: opBase
next:
	ldr x20, [x19, #OP_MASK]
	tbz x20, #TIMED, 1f
	ldr x1, [x19, #OP_RES] // clock_gettime(CLOCK_MONOTONIC, &result.start)
	add x1, x1, #8
	mov x0, #1
	mov x8, #113
	svc #0
1:
	ldr x0, [x19, #OP_ARG] // each argument: a value, or with its mask bit
	tbz x20, #0, 2f        // set the address of a variable
	ldr x0, [x0]
2:	ldr x1, [x19, #OP_ARG+8]
	tbz x20, #1, 2f
	ldr x1, [x1]
2:	ldr x2, [x19, #OP_ARG+16]
	tbz x20, #2, 2f
	ldr x2, [x2]
2:	ldr x3, [x19, #OP_ARG+24]
	tbz x20, #3, 2f
	ldr x3, [x3]
2:	ldr x4, [x19, #OP_ARG+32]
	tbz x20, #4, 2f
	ldr x4, [x4]
2:	ldr x5, [x19, #OP_ARG+40]
	tbz x20, #5, 2f
	ldr x5, [x5]
2:	ldr x8, [x19, #OP_NR]
	cmn x8, #1             // no call: the result is the first argument
	b.eq 2f
	svc #0
2:	mov x21, x0
	tbz x20, #TIMED, 1f
	ldr x1, [x19, #OP_RES] // clock_gettime(CLOCK_MONOTONIC, &result.end)
	add x1, x1, #24
	mov x0, #1
	mov x8, #113
	svc #0
1:
	ldr x1, [x19, #OP_RES]
	cbz x1, 1f
	str x21, [x1]
1:
	cmn x21, #4095         // from -4095 to -1: an errno
	b.cs failed
	ldr x1, [x19, #OP_OUT]
	cbz x1, accepted
	str x21, [x1]
accepted:
	ldr x19, [x19, #OP_OK]
	b next
failed:
	neg x21, x21
	ldr x1, [x19, #OP_ACCEPT]
	cmp x21, x1
	b.eq accepted
	ldr x1, [x19, #OP_ERR]
	cbz x1, fatal
	mov x19, x1
	b next
fatal:
	ldr x1, [x19, #OP_RES] // results may not be mapped yet
	cbz x1, 1f
	movz x1, #0x6, lsl #32 // image.go: resultBase
	str x19, [x1]
1:
	mov x0, #1
	mov x8, #94            // exit_group(1)
	svc #0
	brk #0
