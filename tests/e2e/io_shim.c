/* Loaded with LD_PRELOAD: makes the disk calls on one file family fail, be cut short or stop the process, or records
   them so that a power cut can be replayed.

   The drivers (gallery_faults.py, store_faults.py) arm it through io_shim_arm, by ctypes, in the process under test. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF = 0, FAIL_IO = 1, FAIL_FULL = 2, CUT_SHORT = 3, STOP = 4, STOP_TORN = 5 };

static char match[512];       /* calls on paths that contain this are counted */
static int mode, log_fd = -1;
static long countdown, calls;

void io_shim_arm(const char *path, int how, long after) {
    snprintf(match, sizeof match, "%s", path);
    mode = how, countdown = after, calls = 0;
}
long io_shim_calls(void) { return calls; }
void io_shim_record(int fd) { log_fd = fd; }

static const char *path_of(int fd) {
    static __thread char path[1024];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    return path;
}

static int concerns(const char *path) { return match[0] && strstr(path, match) && !strstr(path, "-shm"); }

static ssize_t real_pwrite(int fd, const void *data, size_t n, off_t at) {
    static ssize_t (*call)(int, const void *, size_t, off_t);
    if (!call) call = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    return call(fd, data, n, at);
}

static ssize_t real_write(int fd, const void *data, size_t n) {
    static ssize_t (*call)(int, const void *, size_t);
    if (!call) call = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return call(fd, data, n);
}

/* Log record: kind (w, s, t, u, r), length of path, path, offset, length of data, data: of r the new path. */
static void record(char kind, const char *path, off_t at, const void *data, size_t n) {
    if (log_fd < 0 || !concerns(path)) return;
    uint32_t length = strlen(path);
    int64_t where = at, size = n;
    char head[1 + 4 + 1024 + 16];
    size_t used = 0;
    head[used++] = kind;
    memcpy(head + used, &length, 4), used += 4;
    memcpy(head + used, path, length), used += length;
    memcpy(head + used, &where, 8), used += 8;
    memcpy(head + used, &size, 8), used += 8;
    if (real_write(log_fd, head, used) < 0 || (data && real_write(log_fd, data, n) < 0)) abort();
}

/* Is it this call's turn? Returns the mode, or OFF. */
static int turn(const char *path) {
    if (!concerns(path)) return OFF;
    calls++;
    if (mode == OFF || calls != countdown) return OFF;
    return mode;
}

static ssize_t faulty_write(int fd, const void *data, size_t n, off_t at, int positioned) {
    const char *path = path_of(fd);
    int how = turn(path);
    if (how == FAIL_IO || how == FAIL_FULL) {
        errno = how == FAIL_IO ? EIO : ENOSPC;
        return -1;
    }
    size_t kept = how == CUT_SHORT || how == STOP_TORN ? n / 2 : n;
    if (how == STOP) _exit(9);
    ssize_t done = positioned ? real_pwrite(fd, data, kept, at) : real_write(fd, data, kept);
    if (how == STOP_TORN) _exit(9);
    if (how == CUT_SHORT) mode = FAIL_FULL, countdown = calls + 1; /* a full disk: some bytes fit, then none */
    if (done > 0) record('w', path, positioned ? at : lseek(fd, 0, SEEK_CUR) - done, data, done);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return faulty_write(fd, data, n, at, 1); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return faulty_write(fd, data, n, at, 1); }
ssize_t write(int fd, const void *data, size_t n) { return faulty_write(fd, data, n, 0, 0); }

static int faulty_sync(int fd, const char *name) {
    int (*call)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *path = path_of(fd);
    int how = turn(path);
    if (how == FAIL_IO || how == FAIL_FULL || how == CUT_SHORT) {
        errno = EIO;
        return -1;
    }
    if (how != OFF) _exit(9);
    int done = call(fd);
    if (done == 0) record('s', path, 0, NULL, 0);
    return done;
}

int fsync(int fd) { return faulty_sync(fd, "fsync"); }
int fdatasync(int fd) { return faulty_sync(fd, "fdatasync"); }

static int faulty_truncate(int fd, off_t size, const char *name) {
    int (*call)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, name);
    const char *path = path_of(fd);
    int how = turn(path);
    if (how == STOP || how == STOP_TORN) _exit(9);
    if (how != OFF) {
        errno = EIO;
        return -1;
    }
    int done = call(fd, size);
    if (done == 0) record('t', path, size, NULL, 0);
    return done;
}

int ftruncate64(int fd, off_t size) { return faulty_truncate(fd, size, "ftruncate64"); }
int ftruncate(int fd, off_t size) { return faulty_truncate(fd, size, "ftruncate"); }

int unlink(const char *path) {
    int (*call)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    int how = turn(path);
    if (how == STOP || how == STOP_TORN) _exit(9);
    if (how != OFF) {
        errno = EIO;
        return -1;
    }
    int done = call(path);
    if (done == 0) record('u', path, 0, NULL, 0);
    return done;
}

int rename(const char *from, const char *to) {
    int (*call)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    int how = turn(to);
    if (how == STOP || how == STOP_TORN) _exit(9);
    if (how != OFF) {
        errno = how == FAIL_IO ? EIO : ENOSPC;
        return -1;
    }
    int done = call(from, to);
    if (done == 0) record('r', from, 0, to, strlen(to));
    return done;
}
