// Does what it is told, line by line, as a process of its own. Answers "ok ..." or "error NUMBER".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_signal(int signal) { (void)signal; }

static int command_of(const char *name) {
    static const struct { const char *name; int command; } all[] = {
        {"set", F_SETLK}, {"wait", F_SETLKW}, {"get", F_GETLK},
        {"ofd-set", F_OFD_SETLK}, {"ofd-wait", F_OFD_SETLKW}, {"ofd-get", F_OFD_GETLK}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, name)) return all[i].command;
    return -1;
}

static short type_of(char kind) { return kind == 'r' ? F_RDLCK : kind == 'w' ? F_WRLCK : F_UNLCK; }

// Adds one to the number in the file, each time under the lock that `how` names.
static int count(int fd, const char *how, int rounds) {
    for (int round = 0; round < rounds; round++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        char text[16] = "";
        int number = 0, flocks = !strcmp(how, "flock");
        if (flocks ? flock(fd, LOCK_EX) : fcntl(fd, F_SETLKW, &lock)) return -1;
        if (pread(fd, text, sizeof text - 1, 0) < 0) return -1;
        sscanf(text, "%d", &number);
        snprintf(text, sizeof text, "%015d", number + 1);
        if (pwrite(fd, text, 15, 0) != 15) return -1;
        lock.l_type = F_UNLCK;
        if (flocks ? flock(fd, LOCK_UN) : fcntl(fd, F_SETLK, &lock)) return -1;
    }
    return 0;
}

static int obey(const char *line, char *answer) {
    char word[32], text[4096], kind;
    int fd, number, status;
    long start, length;
    if (sscanf(line, "open %4095s", text) == 1)
        return sprintf(answer, " %d", fd = open(text, O_RDWR | O_CREAT, 0666)), fd;
    if (sscanf(line, "close %d", &fd) == 1) return close(fd);
    if (sscanf(line, "dup %d", &fd) == 1) return sprintf(answer, " %d", fd = dup(fd)), fd;
    if (sscanf(line, "flock %d %d", &fd, &number) == 2) return flock(fd, number);
    if (sscanf(line, "read %d", &fd) == 1) return pread(fd, text, 1, 0);
    if (sscanf(line, "write %d", &fd) == 1) return pwrite(fd, "x", 1, 0);
    if (sscanf(line, "count %d %31s %d", &fd, word, &number) == 3) return count(fd, word, number);
    if (sscanf(line, "fork-and-close %d", &fd) == 1) {
        // The child has the same open files, but is another process.
        pid_t child = fork();
        if (child == 0) _exit(close(fd));
        return child < 0 ? -1 : waitpid(child, &status, 0);
    }
    if (sscanf(line, "%31s %d %c %ld %ld", word, &fd, &kind, &start, &length) == 5) {
        struct flock lock = {.l_type = type_of(kind), .l_whence = SEEK_SET,
                             .l_start = start, .l_len = length};
        int result = fcntl(fd, command_of(word), &lock);
        if (!strstr(word, "get")) return result;
        if (lock.l_type == F_UNLCK) return sprintf(answer, " free"), result;
        sprintf(answer, " %c %ld %ld %d", lock.l_type == F_RDLCK ? 'r' : 'w',
                (long)lock.l_start, (long)lock.l_len, lock.l_pid);
        return result;
    }
    errno = ENOTTY;
    return -1;
}

int main(void) {
    char line[4200];
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    while (fgets(line, sizeof line, stdin)) {
        char answer[128] = "";
        if (obey(line, answer) < 0) printf("error %d\n", errno);
        else printf("ok%s\n", answer);
        fflush(stdout);
    }
    return 0;
}
