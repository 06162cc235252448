/* The feed: a mapped file with a ring of frames, written by inspectd.runtime.simcam.feed.FrameFeed.
 *
 * Layout, little-endian: 512 bytes of header, then `slots` slots of (u64 part id, height*width*channels pixels),
 * each slot padded to a multiple of 64 bytes. Slot n % slots holds frame n. The writer alone advances `written`,
 * this side alone `consumed`; each counter is published with release order and read with acquire order, so that
 * whoever sees a counter also sees the pixels before it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

#define FEED_MAGIC "INSPFEED"
#define FEED_VERSION 2
#define FIRST_SLOT 512
#define MAX_SIDE 65535

struct feed_header {
    char magic[8];
    uint32_t version, width, height, channels, slots;
    uint32_t closed; /* set by the writer when nothing more will come; nothing here depends on it */
    uint8_t to_line_1[32];
    _Atomic uint64_t written; /* 64 */
    uint8_t to_line_2[56];
    _Atomic uint64_t consumed; /* 128 */
    uint8_t to_line_4[120];
    struct faults faults; /* 256 */
    uint8_t to_user_set[8];
    struct user_set user_set; /* 432 */
};

_Static_assert(offsetof(struct feed_header, written) == 64, "layout of the feed");
_Static_assert(offsetof(struct feed_header, consumed) == 128, "layout of the feed");
_Static_assert(offsetof(struct feed_header, faults) == 256, "layout of the feed");
_Static_assert(offsetof(struct faults, reboot_until_ns) == 64, "layout of the feed");
_Static_assert(offsetof(struct faults, exposed) == 128, "layout of the feed");
_Static_assert(offsetof(struct feed_header, user_set) == 432, "layout of the feed");
_Static_assert(sizeof(struct feed_header) <= FIRST_SLOT, "layout of the feed");

/* Python has no memory barriers of its own: the writer stores and loads its counters through these. */
__attribute__((visibility("default"))) void inspectd_feed_store(_Atomic uint64_t *counter, uint64_t value);
__attribute__((visibility("default"))) uint64_t inspectd_feed_load(const _Atomic uint64_t *counter);
__attribute__((visibility("default"))) void inspectd_feed_add(_Atomic uint32_t *word, uint32_t more);

void inspectd_feed_store(_Atomic uint64_t *counter, uint64_t value) {
    atomic_store_explicit(counter, value, memory_order_release);
}

uint64_t inspectd_feed_load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_acquire);
}

void inspectd_feed_add(_Atomic uint32_t *word, uint32_t more) {
    atomic_fetch_add(word, more);
}

struct faults *feed_faults(const struct feed *feed) {
    return &feed->header->faults;
}

struct user_set *feed_user_set(const struct feed *feed) {
    return &feed->header->user_set;
}

size_t feed_frame_size(const struct feed *feed) {
    return (size_t)feed->width * feed->height * feed->channels;
}

static gc_error read_header(int fd, const char *path, struct feed *feed) {
    struct feed_header header;
    struct stat status;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header || fstat(fd, &status) != 0 ||
        memcmp(header.magic, FEED_MAGIC, sizeof header.magic) != 0)
        return fail(GC_IO, "%s is not a frame feed", path);
    if (header.version != FEED_VERSION)
        return fail(GC_IO, "%s has feed version %u, expected %d", path, header.version, FEED_VERSION);
    if (header.width - 1 >= MAX_SIDE || header.height - 1 >= MAX_SIDE || header.slots == 0 ||
        (header.channels != 1 && header.channels != 3))
        return fail(GC_IO, "%s has an impossible geometry", path);
    feed->width = header.width;
    feed->height = header.height;
    feed->channels = header.channels;
    feed->slots = header.slots;
    feed->slot_stride = (sizeof(uint64_t) + feed_frame_size(feed) + 63) / 64 * 64;
    const uint64_t size = (uint64_t)status.st_size;
    if (size < FIRST_SLOT || (size - FIRST_SLOT) / feed->slot_stride < feed->slots)
        return fail(GC_IO, "%s is shorter than its header says", path);
    feed->mapped = FIRST_SLOT + feed->slots * feed->slot_stride;
    return GC_OK;
}

bool feed_exists(const char *path) {
    struct feed feed;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    struct feed_header header;
    const bool seen = read_header(fd, path, &feed) == GC_OK &&
                      pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
                      atomic_load(&header.faults.absent) == 0 && !faults_unplugged(&header.faults);
    close(fd);
    return seen;
}

/* Whether another process has it open. A process that opens it at this very moment may be refused, and tries again. */
bool feed_is_held(const char *path) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

gc_error feed_open(struct feed *feed, const char *path) {
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return fail(GC_IO, "cannot open %s: %s", path, strerror(errno));
    gc_error code = GC_OK;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        code = errno == EWOULDBLOCK ? fail(GC_ACCESS_DENIED, "%s is open in another process", path)
                                    : fail(GC_IO, "cannot lock %s: %s", path, strerror(errno));
    } else if ((code = read_header(fd, path, feed)) == GC_OK) {
        void *memory = mmap(NULL, feed->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED) {
            feed->header = memory;
            feed->fd = fd;
            if (!atomic_load(&feed->header->faults.refused) && !faults_unplugged(&feed->header->faults)) return GC_OK;
            code = atomic_load(&feed->header->faults.refused)
                       ? fail(GC_ACCESS_DENIED, "%s is held by another host", path)
                       : fail(GC_IO, "%s: the link is gone", path);
            feed_close(feed);
            return code;
        }
        code = fail(GC_IO, "cannot map %s: %s", path, strerror(errno));
    }
    close(fd);
    return code;
}

void feed_close(struct feed *feed) {
    if (feed->header == NULL) return;
    munmap(feed->header, feed->mapped);
    close(feed->fd); /* gives the lock back, too */
    feed->header = NULL;
}

bool feed_front(const struct feed *feed, struct part *part) {
    const uint64_t consumed = atomic_load_explicit(&feed->header->consumed, memory_order_relaxed);
    if (inspectd_feed_load(&feed->header->written) == consumed) return false;
    const uint8_t *slot = (const uint8_t *)feed->header + FIRST_SLOT + consumed % feed->slots * feed->slot_stride;
    memcpy(&part->id, slot, sizeof part->id);
    part->pixels = slot + sizeof part->id;
    return true;
}

void feed_pop(struct feed *feed) {
    const uint64_t consumed = atomic_load_explicit(&feed->header->consumed, memory_order_relaxed);
    inspectd_feed_store(&feed->header->consumed, consumed + 1);
}
