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
#define EXPOSURE_MIN_US 10.0
#define EXPOSURE_MAX_US 1000000.0
#define EXPOSURE_DEFAULT_US 5000.0
#define GAIN_MAX_DB 24.0
#define RESET_NS (1 * (uint64_t)NS_PER_S)

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
_Static_assert(offsetof(struct registers, width_max) == 0x170, "addresses in device.xml");
_Static_assert(offsetof(struct registers, exposure_us) == 0x178, "addresses in device.xml");
_Static_assert(offsetof(struct registers, trigger_source) == 0x188, "addresses in device.xml");
_Static_assert(offsetof(struct registers, device_reset) == 0x1A0, "addresses in device.xml");

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

enum { FORMAT_MONO8 = 1, FORMAT_MONO12P = 2, FORMAT_RGB8 = 4, FORMAT_BAYER_RG8 = 8 };

static uint32_t format_bit(uint32_t format) {
    switch (format) {
    case PFNC_MONO8: return FORMAT_MONO8;
    case PFNC_MONO12P: return FORMAT_MONO12P;
    case PFNC_RGB8: return FORMAT_RGB8;
    case PFNC_BAYER_RG8: return FORMAT_BAYER_RG8;
    default: return 0;
    }
}

static void load_defaults(struct camera *camera) {
    struct registers *registers = &camera->registers;
    registers->width = registers->width_max;
    registers->height = registers->height_max;
    registers->offset_x = registers->offset_y = 0;
    registers->pixel_format = camera->feed.channels == 1 ? PFNC_MONO8 : PFNC_RGB8;
    registers->frame_rate_hz = FRAME_RATE_DEFAULT_HZ;
    registers->exposure_us = EXPOSURE_DEFAULT_US;
    registers->gain_db = 0.0;
    registers->trigger_mode = 0;
    registers->trigger_source = SOURCE_SOFTWARE;
    registers->trigger_divider = 1;
    registers->payload_size = (uint32_t)picture_size(camera);
}

static void load_user_set(struct camera *camera) {
    const struct user_set *set = feed_user_set(&camera->feed);
    struct registers *registers = &camera->registers;
    if (!set->saved) return;
    registers->width = set->width;
    registers->height = set->height;
    registers->offset_x = set->offset_x;
    registers->offset_y = set->offset_y;
    registers->pixel_format = set->pixel_format;
    registers->frame_rate_hz = set->frame_rate_hz;
    registers->exposure_us = set->exposure_us;
    registers->gain_db = set->gain_db;
    registers->trigger_mode = set->trigger_mode;
    registers->trigger_source = set->trigger_source;
    registers->trigger_divider = set->trigger_divider;
    registers->payload_size = (uint32_t)picture_size(camera);
}

static void save_user_set(const struct camera *camera) {
    struct user_set *set = feed_user_set(&camera->feed);
    const struct registers *registers = &camera->registers;
    set->width = registers->width;
    set->height = registers->height;
    set->offset_x = registers->offset_x;
    set->offset_y = registers->offset_y;
    set->pixel_format = registers->pixel_format;
    set->frame_rate_hz = registers->frame_rate_hz;
    set->exposure_us = registers->exposure_us;
    set->gain_db = registers->gain_db;
    set->trigger_mode = registers->trigger_mode;
    set->trigger_source = registers->trigger_source;
    set->trigger_divider = registers->trigger_divider;
    set->saved = 1;
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
    camera->padding = atomic_load(&feed_faults(&camera->feed)->padding);
    registers->width_max = camera->feed.width;
    registers->height_max = camera->feed.height;
    registers->formats = camera->feed.channels == 1 ? FORMAT_MONO8 | FORMAT_MONO12P : FORMAT_RGB8 | FORMAT_BAYER_RG8;
    load_defaults(camera);
    registers->user_set_default = feed_user_set(&camera->feed)->startup;
    if (registers->user_set_default != 0) load_user_set(camera);
    camera->dead = false;
    camera->breaks = atomic_load(&feed_faults(&camera->feed)->breaks);
    camera->acquiring = false;
    camera->triggers = 0;
    camera->pulses = 0;
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

static gc_error write_number(struct camera *camera, uint64_t address, double value) {
    double *place, lowest, highest;
    switch (address) {
    case offsetof(struct registers, frame_rate_hz):
        place = &camera->registers.frame_rate_hz, lowest = FRAME_RATE_MIN_HZ, highest = FRAME_RATE_MAX_HZ;
        break;
    case offsetof(struct registers, exposure_us):
        place = &camera->registers.exposure_us, lowest = EXPOSURE_MIN_US, highest = EXPOSURE_MAX_US;
        break;
    case offsetof(struct registers, gain_db):
        place = &camera->registers.gain_db, lowest = 0.0, highest = GAIN_MAX_DB;
        break;
    default: return fail(GC_INVALID_ADDRESS, "no number can be written at 0x%llx", (unsigned long long)address);
    }
    if (!(value >= lowest && value <= highest))
        return fail(GC_INVALID_VALUE, "%g is not possible; expected %g to %g", value, lowest, highest);
    *place = value;
    return GC_OK;
}

/* Size and place of the picture on the sensor, and its format: fixed while frames are taken. */
static gc_error write_geometry(struct camera *camera, uint64_t address, uint32_t value) {
    struct registers *registers = &camera->registers, before = *registers;
    memcpy((char *)registers + address, &value, sizeof value);
    /* Even places alone, so that a mosaic begins with the same colour wherever the region is. */
    const bool fits = registers->offset_x % 2 == 0 && registers->offset_y % 2 == 0 && registers->width > 0 &&
                      registers->height > 0 && registers->width <= registers->width_max &&
                      registers->offset_x <= registers->width_max - registers->width &&
                      registers->height <= registers->height_max &&
                      registers->offset_y <= registers->height_max - registers->height;
    const bool known = (format_bit(registers->pixel_format) & registers->formats) != 0;
    const bool changed = memcmp(registers, &before, sizeof before) != 0;
    if (!fits || !known || (changed && camera->acquiring)) *registers = before;
    if (!fits)
        return fail(GC_INVALID_VALUE, "the region does not lie within %u x %u px", before.width_max, before.height_max);
    if (!known) return fail(GC_INVALID_VALUE, "the feed of camera %s cannot give format 0x%08x", camera->name, value);
    if (changed && camera->acquiring) return fail(GC_ACCESS_DENIED, "camera %s is acquiring", camera->name);
    registers->payload_size = (uint32_t)picture_size(camera);
    return GC_OK;
}

static gc_error write_user_set(struct camera *camera, uint64_t address, uint32_t value) {
    struct registers *registers = &camera->registers;
    switch (address) {
    case offsetof(struct registers, user_set_selector):
        if (value > 1) return fail(GC_INVALID_VALUE, "there is no user set %u", value);
        registers->user_set_selector = value;
        return GC_OK;
    case offsetof(struct registers, user_set_default):
        if (value > 1) return fail(GC_INVALID_VALUE, "there is no user set %u", value);
        registers->user_set_default = feed_user_set(&camera->feed)->startup = value;
        return GC_OK;
    case offsetof(struct registers, user_set_load):
        if (camera->acquiring) return fail(GC_ACCESS_DENIED, "camera %s is acquiring", camera->name);
        load_defaults(camera);
        if (registers->user_set_selector != 0) load_user_set(camera);
        return GC_OK;
    default: /* save */
        if (registers->user_set_selector == 0) return fail(GC_ACCESS_DENIED, "the default set cannot be changed");
        save_user_set(camera);
        return GC_OK;
    }
}

static gc_error write_word(struct camera *camera, uint64_t address, uint32_t value) {
    switch (address) {
    case offsetof(struct registers, width):
    case offsetof(struct registers, height):
    case offsetof(struct registers, offset_x):
    case offsetof(struct registers, offset_y):
    case offsetof(struct registers, pixel_format): return write_geometry(camera, address, value);
    case offsetof(struct registers, user_set_selector):
    case offsetof(struct registers, user_set_load):
    case offsetof(struct registers, user_set_save):
    case offsetof(struct registers, user_set_default): return write_user_set(camera, address, value);
    case offsetof(struct registers, trigger_source):
        if (value > SOURCE_LINE1) return fail(GC_INVALID_VALUE, "there is no trigger source %u", value);
        camera->registers.trigger_source = value;
        camera->triggers = 0;
        return GC_OK;
    case offsetof(struct registers, trigger_divider):
        if (value == 0) return fail(GC_INVALID_VALUE, "a trigger divider is at least 1");
        camera->registers.trigger_divider = value;
        camera->pulses = 0;
        return GC_OK;
    case offsetof(struct registers, device_reset):
        atomic_store(&feed_faults(&camera->feed)->reboot_until_ns, monotonic_ns() + RESET_NS);
        atomic_fetch_add(&feed_faults(&camera->feed)->breaks, 1);
        return GC_OK;
    case offsetof(struct registers, acquisition_start):
        camera->acquiring = true;
        /* As real cameras do: pulses that came while nothing was acquired are not kept. */
        atomic_store(&feed_faults(&camera->feed)->line1, 0);
        camera->pulses = 0;
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
        if (camera->acquiring && camera->registers.trigger_mode &&
            camera->registers.trigger_source == SOURCE_SOFTWARE)
            camera->triggers++;
        return GC_OK;
    default:
        return fail(GC_INVALID_ADDRESS, "nothing can be written at 0x%llx", (unsigned long long)address);
    }
}

gc_error camera_write(struct camera *camera, uint64_t address, const void *data, size_t size) {
    double number;
    uint32_t word;
    pthread_mutex_lock(&camera->lock);
    gc_error code = camera_link(camera);
    if (code != GC_OK) {
    } else if (size == sizeof number) {
        memcpy(&number, data, sizeof number);
        code = write_number(camera, address, number);
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

static void deliver(struct camera *camera, struct buffer *buffer, const struct part *part, uint64_t frame_id,
                    uint64_t timestamp_ns) {
    struct faults *faults = feed_faults(&camera->feed);
    buffer->filled = picture_write(camera, part->pixels, buffer->base, buffer->size);
    buffer->incomplete = buffer->filled == 0;
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

/* Every so many pulses of the line are a trigger; those that come while the camera is away are nobody's. */
static void take_pulses(struct camera *camera) {
    if (camera_is_dead(camera)) return;
    camera->pulses += atomic_exchange(&feed_faults(&camera->feed)->line1, 0);
    camera->triggers += camera->pulses / camera->registers.trigger_divider;
    camera->pulses %= camera->registers.trigger_divider;
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
        const bool by_line = triggered && camera->registers.trigger_source == SOURCE_LINE1;
        if (by_line && camera->acquiring) take_pulses(camera);
        if (by_line && camera->acquiring && camera->triggers == 0) {
            belt_was_empty = true;
            wait_until(&camera->work, &camera->lock, monotonic_ns() + BELT_POLL_NS);
            continue;
        }
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
