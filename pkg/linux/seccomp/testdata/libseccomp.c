/*
 * The oracle of TestProgramDecidesAsLibseccomp: reads a profile from stdin, one
 * directive a line, and writes the BPF program that libseccomp makes of it to
 * stdout. Names of system calls that libseccomp does not know go to stderr.
 *
 *   default ACTION
 *   arch TOKEN                            SCMP_ARCH_… as libseccomp names it
 *   rule NAME ACTION N {INDEX OP A B}*N   ACTION is a number, SECCOMP_RET_…
 */
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what, const char *name, int rc)
{
	fprintf(stderr, "fatal: %s %s: %s\n", what, name, strerror(-rc));
	exit(1);
}

int main(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[64], name[128];
	uint32_t action;
	int rc;

	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "default")) {
			if (scanf("%" SCNu32, &action) != 1 || !(ctx = seccomp_init(action)))
				die("init", "", 0);
		} else if (!strcmp(word, "arch")) {
			if (scanf("%127s", name) != 1)
				die("read", "arch", 0);
			rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(name));
			if (rc && rc != -17) /* the native one is there */
				die("arch", name, rc);
		} else if (!strcmp(word, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned int n, op;

			if (scanf("%127s %" SCNu32 " %u", name, &action, &n) != 3 || n > 6)
				die("read", "rule", 0);
			for (unsigned int i = 0; i < n; i++) {
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &args[i].arg, &op, &args[i].datum_a, &args[i].datum_b) != 4)
					die("read", name, 0);
				args[i].op = op;
			}
			int nr = seccomp_syscall_resolve_name(name);
			if (nr == __NR_SCMP_ERROR) {
				fprintf(stderr, "%s\n", name);
				continue;
			}
			rc = seccomp_rule_add_array(ctx, action, nr, n, args);
			if (rc)
				die("rule", name, rc);
		}
	}
	rc = seccomp_export_bpf(ctx, 1);
	if (rc)
		die("export", "", rc);
	return 0;
}
