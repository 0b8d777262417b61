// Makes each call that the seccomp profile must refuse and tells whether it was refused as it
// should be. Prints one line a call; exits 1 if any went through.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static void refused(const char *name, int wanted, long answer) {
    int got = errno;
    int ok = answer == -1 && got == wanted;
    printf("%s %s: %s\n", ok ? "ok  " : "FAIL", name, answer == -1 ? strerror(got) : "went through");
    failures += !ok;
}

#define REFUSED(wanted, name, ...) (errno = 0, refused(#name, wanted, syscall(SYS_##name, ##__VA_ARGS__)))

int main(void) {
    static char page[4096];
    REFUSED(EPERM, unshare, CLONE_NEWUSER);
    REFUSED(EPERM, unshare, CLONE_FS);
    REFUSED(EPERM, setns, -1, 0);
    REFUSED(EPERM, clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    REFUSED(EPERM, clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
    REFUSED(EPERM, clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);
    REFUSED(EPERM, clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    REFUSED(ENOSYS, clone3, page, 0);
    REFUSED(EPERM, keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    REFUSED(EPERM, add_key, "user", "k", "v", 1, KEY_SPEC_PROCESS_KEYRING);
    REFUSED(EPERM, request_key, "user", "k", 0, 0);
    REFUSED(ENOSYS, io_uring_setup, 1, page);
    REFUSED(ENOSYS, io_uring_enter, -1, 0, 0, 0, 0, 0);
    REFUSED(EPERM, mount, "none", "/tmp", "tmpfs", 0, 0);
    REFUSED(EPERM, umount2, "/tmp", 0);
    REFUSED(EPERM, pivot_root, "/", "/");
    REFUSED(EPERM, chroot, "/");
    REFUSED(EPERM, open_tree, -100, "/", 0);
    REFUSED(EPERM, fsopen, "tmpfs", 0);
    REFUSED(EPERM, fsmount, -1, 0, 0);
    REFUSED(EPERM, move_mount, -1, "", -1, "", 0);
    REFUSED(EPERM, mount_setattr, -1, "", 0, 0, 0);
    REFUSED(EPERM, ptrace, PTRACE_TRACEME, 0, 0, 0);
    REFUSED(EPERM, process_vm_readv, getpid(), 0, 0, 0, 0, 0);
    REFUSED(EPERM, process_vm_writev, getpid(), 0, 0, 0, 0, 0);
    REFUSED(EPERM, kcmp, getpid(), getpid(), 0, 0, 0);
    REFUSED(EPERM, pidfd_getfd, -1, 0, 0);
    REFUSED(EPERM, bpf, 0, 0, 0);
    REFUSED(EPERM, perf_event_open, 0, 0, -1, -1, 0);
    REFUSED(EPERM, userfaultfd, 0);
    REFUSED(EPERM, kexec_load, 0, 0, 0, 0);
    REFUSED(EPERM, init_module, 0, 0, 0);
    REFUSED(EPERM, finit_module, -1, 0, 0);
    REFUSED(EPERM, delete_module, 0, 0);
    REFUSED(EPERM, quotactl, 0, 0, 0, 0);
    REFUSED(EPERM, swapon, "/x", 0);
    REFUSED(EPERM, reboot, 0, 0, 0, 0);
    REFUSED(EPERM, settimeofday, 0, 0);
    REFUSED(EPERM, clock_settime, 0, 0);
    REFUSED(EPERM, sethostname, "x", 1);
    REFUSED(EPERM, open_by_handle_at, -1, 0, 0);
    REFUSED(EPERM, fanotify_init, 0, 0);
    REFUSED(EPERM, syslog, 10, 0, 0);
    REFUSED(EPERM, acct, 0);
    REFUSED(EPERM, personality, ADDR_NO_RANDOMIZE);
    // Not bound to a network namespace, or a large surface of the kernel's that nothing needs.
    REFUSED(EPERM, socket, AF_VSOCK, SOCK_STREAM, 0);
    REFUSED(EPERM, socket, AF_ALG, SOCK_SEQPACKET, 0);
    REFUSED(EPERM, socket, AF_PACKET, SOCK_RAW, 0);
#ifdef __x86_64__
    // System calls of another architecture pass by a filter that is written for this one.
    pid_t child = fork();
    if (child == 0) {
        long answer;
        __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20) : "memory");
        _exit(answer > 0 ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    int ok = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("%s 32-bit system call: %s\n", ok ? "ok  " : "FAIL", ok ? "refused" : "went through");
    failures += !ok;
#endif
    return failures != 0;
}
