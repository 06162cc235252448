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
    registers->payload_size = (uint32_t)feed_frame_size(&camera->feed);
    registers->frame_rate_hz = FRAME_RATE_DEFAULT_HZ;
    camera->acquiring = false;
    camera->triggers = 0;
    camera->next_frame_id = 0;
}

gc_error camera_read(struct camera *camera, uint64_t address, void *data, size_t size) {
    if (address > sizeof camera->registers || size > sizeof camera->registers - address)
        return fail(GC_INVALID_ADDRESS, "no %zu bytes to read at 0x%llx", size, (unsigned long long)address);
    pthread_mutex_lock(&camera->lock);
    memcpy(data, (const char *)&camera->registers + address, size);
    pthread_mutex_unlock(&camera->lock);
    return GC_OK;
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
    gc_error code;
    pthread_mutex_lock(&camera->lock);
    if (address == offsetof(struct registers, frame_rate_hz) && size == sizeof rate_hz) {
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

/* One exposure: the part leaves the belt whether or not there is a buffer for its picture. */
static void expose(struct camera *camera, const struct part *part) {
    struct stream *stream = &camera->stream;
    const uint64_t frame_id = camera->next_frame_id++;
    struct buffer *buffer = queue_take(&stream->input);
    stream->started++;
    if (buffer == NULL) {
        stream->underrun++;
    } else {
        const size_t frame_size = feed_frame_size(&camera->feed);
        buffer->filled = frame_size < buffer->size ? frame_size : buffer->size;
        memcpy(buffer->base, part->pixels, buffer->filled);
        buffer->frame_id = frame_id;
        buffer->part_id = part->id;
        buffer->timestamp_ns = now_ns(CLOCK_REALTIME);
        buffer->incomplete = buffer->filled < frame_size;
        buffer->new_data = true;
        queue_put(&stream->output, buffer, POOL_OUTPUT);
        stream->delivered++;
        if (stream->remaining != GC_INFINITE) stream->remaining--;
        pthread_cond_broadcast(&camera->ready);
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
        } else if (!feed_front(&camera->feed, &part)) {
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
