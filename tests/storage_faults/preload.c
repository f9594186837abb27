/* Calls of the C library on files that fail, answer short, answer zeros or wait, as rules say that all processes share.

STORAGE_FAULTS names the file of the rules, which is mapped, so that they can be changed while processes run: preload.py writes
it. The real work is done by system calls, since what stands behind these names in the C library does no more than that. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order is that of OPERATIONS and ACTS in preload.py. */
enum operation { OPEN, CREATE, READ, MAP, WRITE, SYNC, RENAME, UNLINK, LOCK, STAT, LIST, ENTRY, MKDIR };
enum act { FAIL, SHORT, END, ZEROS, DELAY };

struct rule {
    char path[512]; /* pattern of fnmatch, in which * is any text */
    double probability;
    uint32_t operations; /* a bit for each */
    uint32_t act;
    int32_t error; /* errno of FAIL */
    uint32_t milliseconds; /* of DELAY */
    uint32_t skip, times, every, seed;
    _Atomic uint32_t seen, done;
};

static struct {
    _Atomic uint32_t count;
    uint32_t unused;
    struct rule rule[32];
} *rules;

__attribute__((constructor)) static void load(void) {
    const char *name = getenv("STORAGE_FAULTS");
    int fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = (void *)syscall(SYS_mmap, NULL, sizeof *rules, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L);
    syscall(SYS_close, fd);
    if (at != MAP_FAILED) rules = at;
}

static double drawn(uint32_t seed, uint32_t number) { /* from 0 to 1, the same for the same two: the finalizer of MurmurHash3 */
    uint64_t x = ((uint64_t)seed << 32 | number) + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return (double)(x >> 11) / 9007199254740992.0;
}

static int is_due(struct rule *rule) {
    uint32_t number = atomic_fetch_add(&rule->seen, 1) + 1;
    if (number <= rule->skip || (number - rule->skip) % rule->every) return 0;
    if (drawn(rule->seed, number) >= rule->probability) return 0;
    uint32_t done = atomic_load(&rule->done);
    while (done < rule->times)
        if (atomic_compare_exchange_weak(&rule->done, &done, done + 1)) return 1;
    return 0;
}

/* The rule that is due for an operation on a path, or NULL. One that fails has set errno; one that delays has waited. */
static struct rule *due(enum operation operation, const char *path) {
    if (!rules || !path) return NULL;
    uint32_t count = atomic_load(&rules->count);
    for (struct rule *rule = rules->rule; rule < rules->rule + count; rule++) {
        if (!(rule->operations >> operation & 1) || fnmatch(rule->path, path, 0) || !is_due(rule)) continue;
        if (rule->act == FAIL) errno = rule->error;
        if (rule->act != DELAY) return rule;
        nanosleep(&(struct timespec){rule->milliseconds / 1000, rule->milliseconds % 1000 * 1000000L}, NULL);
    }
    return NULL;
}

static struct rule *due_at(enum operation operation, int fd) {
    if (!rules || !atomic_load(&rules->count) || fd < 0) return NULL;
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = saved;
    if (length <= 0 || path[0] != '/') return NULL;
    path[length] = 0;
    return due(operation, path);
}

static struct rule *due_for(enum operation operation, int directory, const char *name) {
    if (!rules || !atomic_load(&rules->count) || !name) return NULL;
    if (name[0] == '/') return due(operation, name);
    char link[32] = "/proc/self/cwd", path[8192];
    if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, 4095);
    if (length <= 0) return NULL;
    snprintf(path + length, sizeof path - (size_t)length, "/%s", name);
    return due(operation, path);
}

static int fails(struct rule *rule) { return rule && rule->act == FAIL; }

/* Opening */

static int opened(int directory, const char *path, int flags, mode_t mode) {
    enum operation operation = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT) ? OPEN : CREATE;
    return fails(due_for(operation, directory, path)) ? -1 : (int)syscall(SYS_openat, directory, path, flags, mode);
}
int openat(int directory, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) __attribute__((alias("openat")));
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));

/* Reading */

static size_t asked(struct rule *rule, size_t size) { return rule && rule->act == SHORT ? (size + 1) / 2 : size; }

static ssize_t got(struct rule *rule, char *data, ssize_t size) {
    if (rule && size > 0 && rule->act == ZEROS) memset(data, 0, (size_t)size);
    return size;
}
static int gives_nothing(struct rule *rule) { return rule && (rule->act == FAIL || rule->act == END); }
static ssize_t nothing(struct rule *rule) { return rule->act == FAIL ? -1 : 0; }

ssize_t read(int fd, void *data, size_t size) {
    struct rule *rule = due_at(READ, fd);
    return gives_nothing(rule) ? nothing(rule) : got(rule, data, syscall(SYS_read, fd, data, asked(rule, size)));
}
ssize_t __read_chk(int fd, void *data, size_t size, size_t room) { (void)room; return read(fd, data, size); }
ssize_t pread(int fd, void *data, size_t size, off_t at) {
    struct rule *rule = due_at(READ, fd);
    return gives_nothing(rule) ? nothing(rule) : got(rule, data, syscall(SYS_pread64, fd, data, asked(rule, size), at));
}
ssize_t pread64(int fd, void *data, size_t size, off_t at) __attribute__((alias("pread")));
ssize_t __pread_chk(int fd, void *data, size_t size, off_t at, size_t room) { (void)room; return pread(fd, data, size, at); }
ssize_t __pread64_chk(int fd, void *data, size_t size, off_t at, size_t room) __attribute__((alias("__pread_chk")));
ssize_t readv(int fd, const struct iovec *parts, int count) {
    struct rule *rule = due_at(READ, fd);
    if (gives_nothing(rule)) return nothing(rule);
    ssize_t size = syscall(SYS_readv, fd, parts, rule && rule->act == SHORT && count > 1 ? 1 : count), left = size;
    for (int part = 0; rule && left > 0; left -= (ssize_t)parts[part++].iov_len)
        got(rule, parts[part].iov_base, left < (ssize_t)parts[part].iov_len ? left : (ssize_t)parts[part].iov_len);
    return size;
}
void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset) {
    struct rule *rule = flags & MAP_ANONYMOUS ? NULL : due_at(MAP, fd);
    if (rule && rule->act == FAIL) return MAP_FAILED;
    if (rule && rule->act == ZEROS) return (void *)syscall(SYS_mmap, at, size, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
    return (void *)syscall(SYS_mmap, at, size, access, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int access, int flags, int fd, off_t offset) __attribute__((alias("mmap")));

/* Writing */

ssize_t write(int fd, const void *data, size_t size) {
    struct rule *rule = due_at(WRITE, fd);
    return fails(rule) ? -1 : syscall(SYS_write, fd, data, asked(rule, size));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    struct rule *rule = due_at(WRITE, fd);
    return fails(rule) ? -1 : syscall(SYS_pwrite64, fd, data, asked(rule, size), at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) __attribute__((alias("pwrite")));
ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct rule *rule = due_at(WRITE, fd);
    return fails(rule) ? -1 : syscall(SYS_writev, fd, parts, rule && rule->act == SHORT && count > 1 ? 1 : count);
}
int fsync(int fd) { return fails(due_at(SYNC, fd)) ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(due_at(SYNC, fd)) ? -1 : (int)syscall(SYS_fdatasync, fd); }

/* Names: a rule on RENAME, also of a hard link, goes by the new one. */

int renameat(int from, const char *old, int to, const char *new) {
    return fails(due_for(RENAME, to, new)) ? -1 : (int)syscall(SYS_renameat2, from, old, to, new, 0);
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    return fails(due_for(RENAME, to, new)) ? -1 : (int)syscall(SYS_linkat, from, old, to, new, flags);
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
int unlinkat(int directory, const char *path, int flags) {
    return fails(due_for(UNLINK, directory, path)) ? -1 : (int)syscall(SYS_unlinkat, directory, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int remove(const char *path) {
    int failed = unlinkat(AT_FDCWD, path, 0);
    return failed && errno == EISDIR ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : failed;
}
int mkdirat(int directory, const char *path, mode_t mode) {
    return fails(due_for(MKDIR, directory, path)) ? -1 : (int)syscall(SYS_mkdirat, directory, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* Locks */

int flock(int fd, int operation) { return fails(due_at(LOCK, fd)) ? -1 : (int)syscall(SYS_flock, fd, operation); }
int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    return locks && fails(due_at(LOCK, fd)) ? -1 : (int)syscall(SYS_fcntl, fd, command, argument);
}
int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

/* Sizes: SHORT tells half of it. The names with two underscores are those of a C library before 2.33. */

static int told(struct rule *rule, int failed, struct stat *status) {
    if (!failed && rule && rule->act == SHORT && S_ISREG(status->st_mode)) status->st_size /= 2;
    return failed;
}
int fstatat(int directory, const char *path, struct stat *status, int flags) {
    struct rule *rule = path[0] ? due_for(STAT, directory, path) : due_at(STAT, directory);
    return fails(rule) ? -1 : told(rule, (int)syscall(SYS_newfstatat, directory, path, status, flags), status);
}
int stat(const char *path, struct stat *status) { return fstatat(AT_FDCWD, path, status, 0); }
int lstat(const char *path, struct stat *status) { return fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW); }
int fstat(int fd, struct stat *status) { return fstatat(fd, "", status, AT_EMPTY_PATH); }
int fstatat64(int directory, const char *path, struct stat64 *status, int flags) __attribute__((alias("fstatat")));
int stat64(const char *path, struct stat64 *status) __attribute__((alias("stat")));
int lstat64(const char *path, struct stat64 *status) __attribute__((alias("lstat")));
int fstat64(int fd, struct stat64 *status) __attribute__((alias("fstat")));
int __xstat(int version, const char *path, struct stat *status) { (void)version; return stat(path, status); }
int __lxstat(int version, const char *path, struct stat *status) { (void)version; return lstat(path, status); }
int __fxstat(int version, int fd, struct stat *status) { (void)version; return fstat(fd, status); }
int __xstat64(int version, const char *path, struct stat *status) __attribute__((alias("__xstat")));
int __lxstat64(int version, const char *path, struct stat *status) __attribute__((alias("__lxstat")));
int __fxstat64(int version, int fd, struct stat *status) __attribute__((alias("__fxstat")));

/* Listing: a rule on ENTRY acts on the next name of a directory; END is an end before it. */

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
DIR *opendir(const char *path) { return fails(due_for(LIST, AT_FDCWD, path)) ? NULL : REAL(opendir)(path); }
DIR *fdopendir(int fd) { return fails(due_at(LIST, fd)) ? NULL : REAL(fdopendir)(fd); }
struct dirent *readdir(DIR *directory) {
    struct rule *rule = due_at(ENTRY, dirfd(directory));
    return gives_nothing(rule) ? NULL : REAL(readdir)(directory);
}
struct dirent64 *readdir64(DIR *directory) __attribute__((alias("readdir")));
