/* Inner structure of the simulated producer: one system, one interface, a camera for each feed file.
 *
 *     producer.c   library, system, interface, device: what exists and who has it open
 *     camera.c     the remote device (registers) and the thread that exposes frames
 *     stream.c     buffers, their pools, and the new-buffer event
 *     picture.c    from the pixels of a part to those of a frame
 *     feed.c       the mapped file from which frames come
 *     faults.c     what goes wrong on demand
 *     others.c     what consumers other than harvesters ask for
 *     info.c       handing out values, strings and errors the way GenTL wants them
 *     stubs.c      the rest of GenTL 1.6, answered with "not implemented"
 *
 * All modules live in static storage, so that a stale handle can be recognised and never points into freed
 * memory. Two kinds of lock: the library's (what is open; taken first) and each camera's (its registers,
 * pools and event; held while pixels are copied, some milliseconds at most).
 */
#ifndef INSPECTD_SIM_H
#define INSPECTD_SIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "gentl.h"

#define VENDOR "inspectd"
#define MODEL "FeedCamera"
#define VERSION "1.0.0"
#define TL_TYPE "Custom"
#define XML_ADDRESS 0x10000
#define MAX_CAMERAS 32
#define NAME_SIZE 64
#define PATH_SIZE 4096

struct feed_header;

/* What goes wrong, and an account of all frames; a part of the mapped feed. Set and read from any process. */
struct faults {
    _Atomic uint32_t incomplete, dropped, late, duplicate; /* so many of the next frames */
    _Atomic uint32_t late_ms;
    _Atomic uint32_t stalled, lost, silent, refused, absent, hanging; /* for as long as they are not 0 */
    _Atomic uint32_t padding; /* bytes at the end of each line, from the next opening on */
    _Atomic uint32_t format;  /* the code that frames claim to have, if not 0 */
    _Atomic uint32_t line1;   /* pulses on the camera's input that it has not seen yet */
    _Atomic uint32_t breaks;  /* how often the link broke; only grows */
    uint32_t reserved;
    _Atomic uint64_t reboot_until_ns; /* unplugged until then, by CLOCK_MONOTONIC */
    uint8_t to_line[56];
    /* Since the feed was made: exposed = delivered + without_buffer + dropped_frames; the incomplete are delivered. */
    _Atomic uint64_t exposed, delivered, without_buffer, dropped_frames, incomplete_frames;
};

/* A mapped feed file. `header` is NULL while nothing is mapped. */
struct feed {
    struct feed_header *header;
    size_t mapped;
    size_t slot_stride;
    uint32_t width, height, channels, slots;
    int fd;
};

/* Where a frame lies in the feed. Valid until feed_pop(). */
struct part {
    uint64_t id;
    const uint8_t *pixels;
};

/* A GenTL port: what every module has in common. */
struct port {
    const char *module; /* the standard's name for the kind of module */
    const char *name;   /* the name under which its XML asks for the port */
    const char *id;
    const char *xml;
    size_t xml_size;
    bool open;
};

/* Register space of the remote device, addressed by byte offset; device.xml states the same numbers. */
struct registers {
    char vendor[NAME_SIZE]; /* 0x000 */
    char model[NAME_SIZE];
    char version[NAME_SIZE];
    char serial[NAME_SIZE];
    char id[NAME_SIZE];
    uint32_t width; /* 0x140 */
    uint32_t height;
    uint32_t pixel_format;
    uint32_t payload_size;
    uint32_t acquisition_start; /* 0x150 */
    uint32_t acquisition_stop;
    double frame_rate_hz; /* 0x158 */
    uint32_t trigger_mode; /* 0x160 */
    uint32_t trigger_software;
    uint32_t offset_x; /* 0x168 */
    uint32_t offset_y;
    uint32_t width_max; /* 0x170 */
    uint32_t height_max;
    double exposure_us; /* 0x178 */
    double gain_db;     /* 0x180 */
    uint32_t trigger_source; /* 0x188 */
    uint32_t trigger_divider;
    uint32_t user_set_selector; /* 0x190 */
    uint32_t user_set_load;
    uint32_t user_set_save;
    uint32_t user_set_default;
    uint32_t device_reset; /* 0x1A0 */
    uint32_t formats;      /* bits: 1 Mono8, 2 Mono12p, 4 RGB8, 8 BayerRG8 */
};

enum { SOURCE_SOFTWARE, SOURCE_LINE1 };

/* What a camera keeps while it is switched off; a part of the mapped feed. */
struct user_set {
    uint32_t saved, startup; /* startup: the set that is loaded at power-up, 0 for none */
    uint32_t width, height, offset_x, offset_y, pixel_format, trigger_mode, trigger_source, trigger_divider;
    double frame_rate_hz, exposure_us, gain_db;
};

/* Where a buffer is: with the consumer, waiting to be filled, or waiting to be fetched. */
enum pool { POOL_NONE, POOL_INPUT, POOL_OUTPUT };

struct buffer {
    struct buffer *next;        /* of all that are announced */
    struct buffer *next_queued; /* in its pool */
    enum pool pool;
    uint8_t *base;
    size_t size;
    void *user;
    bool owned; /* its memory is the producer's */
    bool new_data, incomplete;
    size_t filled;
    uint64_t frame_id, part_id, timestamp_ns;
};

struct queue {
    struct buffer *head, *tail;
    size_t length;
};

enum acquisition { ACQ_IDLE, ACQ_RUNNING, ACQ_STOPPING };

struct stream {
    struct port port;
    struct buffer *announced;
    size_t announced_count;
    struct queue input, output;
    enum acquisition state;
    pthread_t thread;
    uint64_t remaining; /* frames still to acquire, or GC_INFINITE */
    uint64_t started, delivered, underrun, fired;
    bool event_registered, event_killed;
};

struct camera {
    pthread_mutex_t lock;
    pthread_cond_t work;  /* wakes the exposing thread */
    pthread_cond_t ready; /* wakes whoever waits for a buffer */
    char path[PATH_SIZE];
    char name[NAME_SIZE], id[NAME_SIZE];
    struct port local, remote;
    struct stream stream;
    struct feed feed;
    struct registers registers;
    bool dead; /* the link was gone since it was opened */
    uint32_t breaks; /* of the link before it was opened */
    bool acquiring; /* between AcquisitionStart and AcquisitionStop */
    uint64_t triggers; /* executed and not yet exposed */
    uint32_t pulses;   /* of Line1 towards the next trigger */
    uint64_t next_frame_id;
    uint32_t padding; /* bytes at the end of each line */
};

/* info.c: results. `fail` keeps the text for GCGetLastError of the calling thread. */
gc_error fail(gc_error code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void last_error(gc_error *code, const char **text);
gc_error put_string(const char *text, gc_enum *type, void *value, size_t *size);
gc_error put_bool(bool flag, gc_enum *type, void *value, size_t *size);
gc_error put_int32(int32_t number, gc_enum *type, void *value, size_t *size);
gc_error put_uint32(uint32_t number, gc_enum *type, void *value, size_t *size);
gc_error put_uint64(uint64_t number, gc_enum *type, void *value, size_t *size);
gc_error put_size(size_t number, gc_enum *type, void *value, size_t *size);
gc_error put_pointer(void *pointer, gc_enum *type, void *value, size_t *size);
gc_error unknown_command(const char *function, gc_enum what);

/* feed.c */
gc_error feed_open(struct feed *feed, const char *path);
void feed_close(struct feed *feed);
bool feed_is_held(const char *path);
bool feed_exists(const char *path); /* and is plugged in */
bool feed_front(const struct feed *feed, struct part *part);
void feed_pop(struct feed *feed);
size_t feed_frame_size(const struct feed *feed);
struct faults *feed_faults(const struct feed *feed);
struct user_set *feed_user_set(const struct feed *feed);

/* faults.c */
bool fault_takes_one(_Atomic uint32_t *left);
bool faults_unplugged(const struct faults *faults);
bool camera_is_dead(struct camera *camera);
bool camera_is_still(struct camera *camera);
void camera_may_hang(const struct camera *camera);
gc_error camera_link(struct camera *camera);

/* picture.c */
size_t picture_size(const struct camera *camera);
size_t picture_write(const struct camera *camera, const uint8_t *pixels, uint8_t *target, size_t room);

/* camera.c */
extern const char device_xml[], device_xml_end[];
void camera_reset(struct camera *camera);
gc_error camera_read(struct camera *camera, uint64_t address, void *data, size_t size);
gc_error camera_write(struct camera *camera, uint64_t address, const void *data, size_t size);
void *camera_expose(void *camera);
uint64_t monotonic_ns(void);
int wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t deadline_ns);

/* stream.c */
void stream_open(struct camera *camera);
void stream_close(struct camera *camera);
struct buffer *queue_take(struct queue *queue);
void queue_put(struct queue *queue, struct buffer *buffer, enum pool pool);

/* producer.c */
gc_error require_library(void);
struct camera *camera_of_stream(gc_handle stream);

#endif
