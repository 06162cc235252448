/* The remote device: its registers, and the thread that exposes a frame for each part on the belt. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "sim.h"

/* The thread looks for the next part this often; nobody can wake it from another process. */
#define BELT_POLL_NS 1000000u
#define NS_PER_S 1000000000u

#define FRAME_RATE_MIN_HZ 0.1
#define FRAME_RATE_MAX_HZ 1000.0
#define FRAME_RATE_DEFAULT_HZ 10.0

__asm__(".section .rodata\n"
        ".globl device_xml\n"
        ".hidden device_xml\n"
        "device_xml:\n"
        ".incbin \"" DEVICE_XML "\"\n"
        ".globl device_xml_end\n"
        ".hidden device_xml_end\n"
        "device_xml_end:\n"
        ".byte 0\n"
        ".text\n");

_Static_assert(offsetof(struct registers, width) == 0x140, "addresses in device.xml");
_Static_assert(offsetof(struct registers, acquisition_start) == 0x150, "addresses in device.xml");
_Static_assert(offsetof(struct registers, frame_rate_hz) == 0x158, "addresses in device.xml");
_Static_assert(offsetof(struct registers, trigger_mode) == 0x160, "addresses in device.xml");

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t monotonic_ns(void) {
    return now_ns(CLOCK_MONOTONIC);
}

int wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t deadline_ns) {
    const struct timespec deadline = {(time_t)(deadline_ns / NS_PER_S), (long)(deadline_ns % NS_PER_S)};
    return pthread_cond_timedwait(condition, lock, &deadline);
}

static size_t payload_size(const struct camera *camera) {
    return feed_frame_size(&camera->feed) + (size_t)camera->padding * camera->feed.height;
}

/* Power-up state of a camera whose feed has just been mapped. */
void camera_reset(struct camera *camera) {
    struct registers *registers = &camera->registers;
    memset(registers, 0, sizeof *registers);
    snprintf(registers->vendor, sizeof registers->vendor, "%s", VENDOR);
    snprintf(registers->model, sizeof registers->model, "%s", MODEL);
    snprintf(registers->version, sizeof registers->version, "%s", VERSION);
    snprintf(registers->serial, sizeof registers->serial, "%s", camera->name);
    snprintf(registers->id, sizeof registers->id, "%s", camera->id);
    registers->width = camera->feed.width;
    registers->height = camera->feed.height;
    registers->pixel_format = camera->feed.channels == 1 ? PFNC_MONO8 : PFNC_RGB8;
    camera->padding = atomic_load(&feed_faults(&camera->feed)->padding);
    registers->payload_size = (uint32_t)payload_size(camera);
    registers->frame_rate_hz = FRAME_RATE_DEFAULT_HZ;
    camera->dead = false;
    camera->acquiring = false;
    camera->triggers = 0;
    camera->next_frame_id = 0;
}

gc_error camera_read(struct camera *camera, uint64_t address, void *data, size_t size) {
    if (address > sizeof camera->registers || size > sizeof camera->registers - address)
        return fail(GC_INVALID_ADDRESS, "no %zu bytes to read at 0x%llx", size, (unsigned long long)address);
    pthread_mutex_lock(&camera->lock);
    const gc_error code = camera_link(camera);
    if (code == GC_OK) memcpy(data, (const char *)&camera->registers + address, size);
    pthread_mutex_unlock(&camera->lock);
    return code;
}

static gc_error write_frame_rate(struct camera *camera, double rate_hz) {
    if (!(rate_hz >= FRAME_RATE_MIN_HZ && rate_hz <= FRAME_RATE_MAX_HZ))
        return fail(GC_INVALID_VALUE, "a frame rate of %g Hz is not possible", rate_hz);
    camera->registers.frame_rate_hz = rate_hz;
    return GC_OK;
}

static gc_error write_word(struct camera *camera, uint64_t address, uint32_t value) {
    switch (address) {
    case offsetof(struct registers, pixel_format):
        if (value != camera->registers.pixel_format)
            return fail(GC_INVALID_VALUE, "the feed of camera %s has another pixel format", camera->name);
        return GC_OK;
    case offsetof(struct registers, acquisition_start):
        camera->acquiring = true;
        return GC_OK;
    case offsetof(struct registers, acquisition_stop):
        camera->acquiring = false;
        camera->triggers = 0;
        return GC_OK;
    case offsetof(struct registers, trigger_mode):
        if (value > 1) return fail(GC_INVALID_VALUE, "trigger mode %u is neither off nor on", value);
        camera->registers.trigger_mode = value;
        camera->triggers = 0;
        return GC_OK;
    case offsetof(struct registers, trigger_software):
        /* As real cameras do: a trigger that comes while nothing is acquired is not kept. */
        if (camera->acquiring && camera->registers.trigger_mode) camera->triggers++;
        return GC_OK;
    default:
        return fail(GC_INVALID_ADDRESS, "nothing can be written at 0x%llx", (unsigned long long)address);
    }
}

gc_error camera_write(struct camera *camera, uint64_t address, const void *data, size_t size) {
    double rate_hz;
    uint32_t word;
    pthread_mutex_lock(&camera->lock);
    gc_error code = camera_link(camera);
    if (code != GC_OK) {
    } else if (address == offsetof(struct registers, frame_rate_hz) && size == sizeof rate_hz) {
        memcpy(&rate_hz, data, sizeof rate_hz);
        code = write_frame_rate(camera, rate_hz);
    } else if (size == sizeof word) {
        memcpy(&word, data, sizeof word);
        code = write_word(camera, address, word);
    } else {
        code = fail(GC_INVALID_ADDRESS, "no %zu bytes to write at 0x%llx", size, (unsigned long long)address);
    }
    pthread_cond_broadcast(&camera->work);
    pthread_mutex_unlock(&camera->lock);
    return code;
}

/* Copies a part into a buffer, a line at a time where lines are padded. */
static void fill(const struct camera *camera, struct buffer *buffer, const uint8_t *pixels) {
    const size_t line = (size_t)camera->feed.width * camera->feed.channels, stride = line + camera->padding;
    const size_t whole = payload_size(camera);
    buffer->filled = whole < buffer->size ? whole : buffer->size;
    if (camera->padding == 0) {
        memcpy(buffer->base, pixels, buffer->filled);
        return;
    }
    memset(buffer->base, 0xA5, buffer->filled);
    for (size_t row = 0; row < camera->feed.height && row * stride + line <= buffer->filled; row++)
        memcpy(buffer->base + row * stride, pixels + row * line, line);
}

static void deliver(struct camera *camera, struct buffer *buffer, const struct part *part, uint64_t frame_id,
                    uint64_t timestamp_ns) {
    struct faults *faults = feed_faults(&camera->feed);
    fill(camera, buffer, part->pixels);
    buffer->incomplete = buffer->filled < payload_size(camera);
    if (fault_takes_one(&faults->incomplete)) {
        buffer->filled /= 2;
        buffer->incomplete = true;
    }
    if (buffer->incomplete) atomic_fetch_add(&faults->incomplete_frames, 1);
    buffer->frame_id = frame_id;
    buffer->part_id = part->id;
    buffer->timestamp_ns = timestamp_ns;
    buffer->new_data = true;
    queue_put(&camera->stream.output, buffer, POOL_OUTPUT);
    camera->stream.delivered++;
    atomic_fetch_add(&faults->delivered, 1);
    if (camera->stream.remaining != GC_INFINITE) camera->stream.remaining--;
    pthread_cond_broadcast(&camera->ready);
}

/* Holds a frame back, as a network that is overloaded does. */
static void delay(struct camera *camera, uint32_t late_ms) {
    const uint64_t until_ns = monotonic_ns() + (uint64_t)late_ms * (NS_PER_S / 1000);
    while (camera->stream.state == ACQ_RUNNING && monotonic_ns() < until_ns)
        wait_until(&camera->work, &camera->lock, until_ns);
}

/* One exposure: the part leaves the belt whether or not there is a buffer for its picture. */
static void expose(struct camera *camera, const struct part *part) {
    struct stream *stream = &camera->stream;
    struct faults *faults = feed_faults(&camera->feed);
    const uint64_t timestamp_ns = now_ns(CLOCK_REALTIME);
    const bool repeated = camera->next_frame_id > 0 && fault_takes_one(&faults->duplicate);
    const uint64_t frame_id = repeated ? camera->next_frame_id - 1 : camera->next_frame_id++;
    stream->started++;
    atomic_fetch_add(&faults->exposed, 1);
    if (fault_takes_one(&faults->late)) delay(camera, atomic_load(&faults->late_ms));
    struct buffer *buffer = NULL;
    if (fault_takes_one(&faults->dropped)) {
        atomic_fetch_add(&faults->dropped_frames, 1);
    } else if ((buffer = queue_take(&stream->input)) == NULL) {
        stream->underrun++;
        atomic_fetch_add(&faults->without_buffer, 1);
    } else {
        deliver(camera, buffer, part, frame_id, timestamp_ns);
    }
    feed_pop(&camera->feed);
}

/* The exposing thread, from DSStartAcquisition to DSStopAcquisition. Free-running frames keep their raster, except
 * after an empty belt or a long delay: then the next frame is a whole period after the late one, never a burst. */
void *camera_expose(void *argument) {
    struct camera *camera = argument;
    struct part part;
    uint64_t last_due_ns = 0;
    bool belt_was_empty = true;

    pthread_mutex_lock(&camera->lock);
    while (camera->stream.state == ACQ_RUNNING) {
        const bool triggered = camera->registers.trigger_mode;
        if (!camera->acquiring || camera->stream.remaining == 0 || (triggered && camera->triggers == 0)) {
            belt_was_empty = true;
            pthread_cond_wait(&camera->work, &camera->lock);
            continue;
        }
        const uint64_t now = monotonic_ns();
        const uint64_t period_ns = (uint64_t)(NS_PER_S / camera->registers.frame_rate_hz);
        const uint64_t due_ns = last_due_ns + period_ns;
        if (!triggered && now < due_ns) {
            wait_until(&camera->work, &camera->lock, due_ns);
        } else if (camera_is_still(camera) || !feed_front(&camera->feed, &part)) {
            belt_was_empty = true;
            wait_until(&camera->work, &camera->lock, now + BELT_POLL_NS);
        } else {
            expose(camera, &part);
            if (triggered) camera->triggers--;
            last_due_ns = belt_was_empty || triggered || now - due_ns > period_ns ? now : due_ns;
            belt_was_empty = false;
        }
    }
    pthread_mutex_unlock(&camera->lock);
    return NULL;
}
