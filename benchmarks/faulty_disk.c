/* A disk that fails: preloaded into a program, it counts the calls that change anything below one directory, and lets them fail
 * from the one on that it is told of, or that one alone.
 *
 *     cc -shared -fPIC -O1 -o faulty_disk.so faulty_disk.c
 *
 * `disk_arm` tells which calls fail, and `disk_count` how many there were, in this process and those forked after `disk_arm`.
 * A full disk (ENOSPC) still lets files be opened and removed. A read-only one (EROFS) also says so to who asks (access). What is
 * written through mapped memory is not seen: of SQLite that is the index of the write-ahead log, which holds nothing of its own.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static size_t length;
static long failing;
static int error, stays;
static _Atomic long *count;

int disk_arm(const char *directory, long number, int error_, int stays_) {
    length = strlen(directory);
    if (length >= sizeof below) return -1;
    if (count == NULL) {
        void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) return -1;
        count = page;
    }
    strcpy(below, directory);
    failing = number;
    error = error_;
    stays = stays_;
    atomic_store(count, 0);
    return 0;
}

long disk_count(void) { return count ? atomic_load(count) : 0; }

enum kind { GROWS, CHANGES };

static int broken(long number) { return failing && (stays ? number >= failing : number == failing); }

static int fails(enum kind kind) {
    if (error == ENOSPC && kind == CHANGES) return 0;
    if (!broken(atomic_fetch_add(count, 1) + 1)) return 0;
    errno = error;
    return 1;
}

static int is_below(const char *path) { return strncmp(path, below, length) == 0 && (path[length] == '/' || path[length] == 0); }

static int of_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!length) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

static int of_path(int fd, const char *path) {
    char base[PATH_MAX];
    if (!length) return 0;
    if (path[0] == '/') return is_below(path);
    if (fd != AT_FDCWD) return of_fd(fd);
    if (!getcwd(base, sizeof base)) return 0;
    strncat(base, "/", sizeof base - strlen(base) - 1);
    strncat(base, path, sizeof base - strlen(base) - 1);
    return is_below(base);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* What is written to an open file. */

#define TO_FILE(result, name, parameters, arguments, fd) \
    result name parameters { \
        REAL(name); \
        return of_fd(fd) && fails(GROWS) ? -1 : real arguments; \
    }

TO_FILE(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd)
TO_FILE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd)
TO_FILE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd)
TO_FILE(ssize_t, writev, (int fd, const struct iovec *data, int size), (fd, data, size), fd)
TO_FILE(ssize_t, pwritev, (int fd, const struct iovec *data, int size, off_t at), (fd, data, size, at), fd)
TO_FILE(ssize_t, pwritev64, (int fd, const struct iovec *data, int size, off64_t at), (fd, data, size, at), fd)
TO_FILE(ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), fd)
TO_FILE(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), fd)
TO_FILE(ssize_t, copy_file_range, (int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags), (from, at, fd, to, size, flags), fd)
TO_FILE(int, fsync, (int fd), (fd), fd)
TO_FILE(int, fdatasync, (int fd), (fd), fd)
TO_FILE(int, ftruncate, (int fd, off_t size), (fd, size), fd)
TO_FILE(int, ftruncate64, (int fd, off64_t size), (fd, size), fd)
TO_FILE(int, fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), fd)
TO_FILE(int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size), fd)

int posix_fallocate(int fd, off_t at, off_t size) {
    REAL(posix_fallocate);
    return of_fd(fd) && fails(GROWS) ? error : real(fd, at, size);
}

int fchmod(int fd, mode_t mode) {
    REAL(fchmod);
    return of_fd(fd) && fails(CHANGES) ? -1 : real(fd, mode);
}

/* What is done to a directory. */

#define AT(result, name, parameters, arguments, fd, path, kind) \
    result name parameters { \
        REAL(name); \
        return of_path(fd, path) && fails(kind) ? -1 : real arguments; \
    }

AT(int, rename, (const char *from, const char *to), (from, to), AT_FDCWD, to, GROWS)
AT(int, renameat, (int fd, const char *from, int at, const char *to), (fd, from, at, to), at, to, GROWS)
AT(int, renameat2, (int fd, const char *from, int at, const char *to, unsigned flags), (fd, from, at, to, flags), at, to, GROWS)
AT(int, link, (const char *from, const char *to), (from, to), AT_FDCWD, to, GROWS)
AT(int, linkat, (int fd, const char *from, int at, const char *to, int flags), (fd, from, at, to, flags), at, to, GROWS)
AT(int, symlink, (const char *target, const char *path), (target, path), AT_FDCWD, path, GROWS)
AT(int, symlinkat, (const char *target, int fd, const char *path), (target, fd, path), fd, path, GROWS)
AT(int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, GROWS)
AT(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), fd, path, GROWS)
AT(int, chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, CHANGES)
AT(int, fchmodat, (int fd, const char *path, mode_t mode, int flags), (fd, path, mode, flags), fd, path, CHANGES)
AT(int, unlink, (const char *path), (path), AT_FDCWD, path, CHANGES)
AT(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fd, path, CHANGES)
AT(int, rmdir, (const char *path), (path), AT_FDCWD, path, CHANGES)

/* A file that is opened to be written; one that is there may be opened on a full disk. */

static int refused(int fd, const char *path, int flags) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT)) || !of_path(fd, path)) return 0;
    int before = errno;
    int there = faccessat(fd, path, F_OK, 0) == 0;
    errno = before;
    return fails((flags & O_CREAT) && !there ? GROWS : CHANGES);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

#define OPEN(name, parameters, fd, arguments) \
    int name parameters { \
        REAL(name); \
        MODE \
        return refused(fd, path, flags) ? -1 : real arguments; \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int fd, const char *path, int flags, ...), fd, (fd, path, flags, mode))
OPEN(openat64, (int fd, const char *path, int flags, ...), fd, (fd, path, flags, mode))

/* Who asks beforehand whether anything may be written is told, and that is no write. */

static int read_only(int fd, const char *path, int mode) {
    if (!(mode & W_OK) || error != EROFS || !of_path(fd, path) || !stays || !broken(atomic_load(count))) return 0;
    errno = EROFS;
    return 1;
}

int access(const char *path, int mode) {
    REAL(access);
    return read_only(AT_FDCWD, path, mode) ? -1 : real(path, mode);
}

int faccessat(int fd, const char *path, int mode, int flags) {
    REAL(faccessat);
    return read_only(fd, path, mode) ? -1 : real(fd, path, mode, flags);
}
