/* Runs a program under a seccomp filter like the one that Docker gives a container without privileges:
 *
 *     confined PROGRAM ARGUMENTS…
 *
 * Docker's default profile allows a list and answers EPERM to the rest (docs.docker.com/engine/security/seccomp, which names what it
 * withholds and why); here what it names is refused, clone3 with ENOSYS as there, and new privileges are given up. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const unsigned WITHHELD[] = {
    SYS_acct, SYS_add_key, SYS_bpf, SYS_clock_adjtime, SYS_clock_settime, SYS_delete_module, SYS_finit_module, SYS_fsopen,
    SYS_get_mempolicy, SYS_init_module, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_ioperm, SYS_iopl,
    SYS_kcmp, SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl, SYS_mbind, SYS_mount, SYS_move_mount, SYS_move_pages,
    SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_open_tree, SYS_perf_event_open, SYS_personality, SYS_pivot_root,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_quotactl, SYS_reboot, SYS_request_key, SYS_set_mempolicy, SYS_setns,
    SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_sysfs, SYS_umount2, SYS_unshare, SYS_userfaultfd, SYS_ustat, SYS_vhangup,
};
enum { COUNT = sizeof WITHHELD / sizeof *WITHHELD, HEAD = 5, TAIL = 3 };

int main(int argc, char **argv)
{
    struct sock_filter filter[HEAD + COUNT + TAIL] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, COUNT + 2, 0),
    };
    for (int at = 0; at < COUNT; at++) {
        struct sock_filter withhold = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, WITHHELD[at], (unsigned char)(COUNT - at), 0);
        filter[HEAD + at] = withhold;
    }
    filter[HEAD + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[HEAD + COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    filter[HEAD + COUNT + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    if (argc < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return perror("confined"), 70;
    /* Or the filter is none. */
    if (syscall(SYS_unshare, 0) != -1 || errno != EPERM || syscall(SYS_clone3, NULL, 0) != -1 || errno != ENOSYS)
        return fprintf(stderr, "the filter does not filter\n"), 70;
    execvp(argv[1], argv + 1);
    return perror(argv[1]), 127;
}
