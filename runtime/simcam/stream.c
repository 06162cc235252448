/* The data stream: buffers, the pools they move through, and the new-buffer event.
 *
 *     none --DSQueueBuffer--> input --camera.c--> output --EventGetData--> none
 */
#include <errno.h>
#include <stdlib.h>

#include "sim.h"

#define NS_PER_MS 1000000u
#define FAULT_POLL_NS (5 * NS_PER_MS)

struct buffer *queue_take(struct queue *queue) {
    struct buffer *buffer = queue->head;
    if (buffer == NULL) return NULL;
    queue->head = buffer->next_queued;
    if (queue->head == NULL) queue->tail = NULL;
    queue->length--;
    buffer->next_queued = NULL;
    buffer->pool = POOL_NONE;
    return buffer;
}

void queue_put(struct queue *queue, struct buffer *buffer, enum pool pool) {
    buffer->pool = pool;
    buffer->next_queued = NULL;
    if (queue->tail != NULL)
        queue->tail->next_queued = buffer;
    else
        queue->head = buffer;
    queue->tail = buffer;
    queue->length++;
}

static void discard(struct queue *queue) {
    while (queue_take(queue) != NULL) {
    }
}

/* A buffer that waits for a frame holds none. */
static void queue_input(struct stream *stream, struct buffer *buffer) {
    buffer->new_data = false;
    buffer->incomplete = false;
    buffer->filled = 0;
    queue_put(&stream->input, buffer, POOL_INPUT);
}

/* Locks the camera behind an open stream; NULL (and nothing locked) for any other handle. */
static struct camera *lock_stream(gc_handle handle) {
    struct camera *camera = camera_of_stream(handle);
    if (camera == NULL) return NULL;
    pthread_mutex_lock(&camera->lock);
    if (camera->stream.port.open) return camera;
    pthread_mutex_unlock(&camera->lock);
    return NULL;
}

static gc_error unlock(struct camera *camera, gc_error code) {
    pthread_mutex_unlock(&camera->lock);
    return code;
}

#define LOCK_STREAM(camera, handle)                                                     \
    if (require_library() != GC_OK) return GC_NOT_INITIALIZED;                          \
    struct camera *camera = lock_stream(handle);                                        \
    if (camera == NULL) return fail(GC_INVALID_HANDLE, "%s: not an open data stream", __func__)

/* The place in the list that points to the buffer, or NULL. */
static struct buffer **find_buffer(struct stream *stream, gc_handle handle) {
    for (struct buffer **link = &stream->announced; *link != NULL; link = &(*link)->next)
        if (*link == handle) return link;
    return NULL;
}

static gc_error no_buffer(struct camera *camera) {
    return unlock(camera, fail(GC_INVALID_BUFFER, "not a buffer announced to the stream of camera %s", camera->name));
}

void stream_open(struct camera *camera) {
    struct stream *stream = &camera->stream;
    pthread_mutex_lock(&camera->lock);
    stream->state = ACQ_IDLE;
    stream->started = stream->delivered = stream->underrun = stream->fired = 0;
    stream->port.open = true;
    pthread_mutex_unlock(&camera->lock);
}

static void stop_acquisition(struct camera *camera) {
    struct stream *stream = &camera->stream;
    stream->state = ACQ_STOPPING;
    pthread_cond_broadcast(&camera->work);
    pthread_mutex_unlock(&camera->lock);
    pthread_join(stream->thread, NULL);
    pthread_mutex_lock(&camera->lock);
    stream->state = ACQ_IDLE;
    pthread_cond_broadcast(&camera->work); /* for a second thread that waits for the same stop */
}

static void free_buffer(struct buffer *buffer) {
    if (buffer->owned) free(buffer->base);
    free(buffer);
}

/* Stops, releases everybody who waits for an event, and forgets the buffers. */
void stream_close(struct camera *camera) {
    struct stream *stream = &camera->stream;
    pthread_mutex_lock(&camera->lock);
    if (stream->state == ACQ_RUNNING) stop_acquisition(camera);
    while (stream->state == ACQ_STOPPING) pthread_cond_wait(&camera->work, &camera->lock);
    stream->event_registered = false;
    stream->port.open = false;
    pthread_cond_broadcast(&camera->ready);
    discard(&stream->input);
    discard(&stream->output);
    while (stream->announced != NULL) {
        struct buffer *buffer = stream->announced;
        stream->announced = buffer->next;
        free_buffer(buffer);
    }
    stream->announced_count = 0;
    pthread_mutex_unlock(&camera->lock);
}

ENTRY DSClose(gc_handle handle) {
    LOCK_STREAM(camera, handle);
    unlock(camera, GC_OK);
    stream_close(camera);
    return GC_OK;
}

ENTRY DSGetParentDev(gc_handle handle, gc_handle *device) {
    if (device == NULL) return fail(GC_INVALID_PARAMETER, "DSGetParentDev: no place for the handle");
    LOCK_STREAM(camera, handle);
    *device = &camera->local;
    return unlock(camera, GC_OK);
}

ENTRY DSAnnounceBuffer(gc_handle handle, void *base, size_t size, void *user, gc_handle *result) {
    if (base == NULL || size == 0 || result == NULL)
        return fail(GC_INVALID_PARAMETER, "a buffer needs memory, a size and a place for its handle");
    LOCK_STREAM(camera, handle);
    struct buffer *buffer = calloc(1, sizeof *buffer);
    if (buffer == NULL) return unlock(camera, fail(GC_OUT_OF_MEMORY, "no memory for another buffer"));
    buffer->base = base;
    buffer->size = size;
    buffer->user = user;
    buffer->next = camera->stream.announced;
    camera->stream.announced = buffer;
    camera->stream.announced_count++;
    *result = buffer;
    return unlock(camera, GC_OK);
}

ENTRY DSQueueBuffer(gc_handle handle, gc_handle buffer_handle) {
    LOCK_STREAM(camera, handle);
    struct buffer **link = find_buffer(&camera->stream, buffer_handle);
    if (link == NULL) return no_buffer(camera);
    if ((*link)->pool != POOL_NONE) return unlock(camera, fail(GC_BUSY, "the buffer is queued already"));
    queue_input(&camera->stream, *link);
    return unlock(camera, GC_OK);
}

ENTRY DSRevokeBuffer(gc_handle handle, gc_handle buffer_handle, void **base, void **user) {
    LOCK_STREAM(camera, handle);
    struct buffer **link = find_buffer(&camera->stream, buffer_handle);
    if (link == NULL) return no_buffer(camera);
    struct buffer *buffer = *link;
    if (buffer->pool != POOL_NONE) return unlock(camera, fail(GC_BUSY, "the buffer is queued: flush the queue first"));
    if (base != NULL) *base = buffer->owned ? NULL : buffer->base;
    if (user != NULL) *user = buffer->user;
    *link = buffer->next;
    camera->stream.announced_count--;
    free_buffer(buffer);
    return unlock(camera, GC_OK);
}

ENTRY DSFlushQueue(gc_handle handle, gc_enum operation) {
    LOCK_STREAM(camera, handle);
    struct stream *stream = &camera->stream;
    struct buffer *buffer;
    switch (operation) {
    case FLUSH_INPUT_TO_OUTPUT:
        while ((buffer = queue_take(&stream->input)) != NULL) {
            buffer->incomplete = true; /* nothing was exposed: it must not pass for a frame */
            queue_put(&stream->output, buffer, POOL_OUTPUT);
        }
        pthread_cond_broadcast(&camera->ready);
        break;
    case FLUSH_OUTPUT_DISCARD:
        discard(&stream->output);
        break;
    case FLUSH_ALL_TO_INPUT:
        discard(&stream->output);
        /* fall through */
    case FLUSH_UNQUEUED_TO_INPUT:
        for (buffer = stream->announced; buffer != NULL; buffer = buffer->next)
            if (buffer->pool == POOL_NONE) queue_input(stream, buffer);
        break;
    case FLUSH_ALL_DISCARD:
        discard(&stream->input);
        discard(&stream->output);
        break;
    default:
        return unlock(camera, fail(GC_INVALID_PARAMETER, "no flush operation %d", (int)operation));
    }
    return unlock(camera, GC_OK);
}

ENTRY DSStartAcquisition(gc_handle handle, gc_enum flags, uint64_t count) {
    if (flags != 0 || count == 0) return fail(GC_INVALID_PARAMETER, "acquisition of %llu frames with flags %d",
                                              (unsigned long long)count, (int)flags);
    LOCK_STREAM(camera, handle);
    struct stream *stream = &camera->stream;
    if (stream->state != ACQ_IDLE)
        return unlock(camera, fail(GC_RESOURCE_IN_USE, "camera %s is acquiring already", camera->name));
    stream->started = stream->delivered = stream->underrun = 0;
    stream->remaining = count;
    camera->next_frame_id = 0;
    stream->state = ACQ_RUNNING;
    if (pthread_create(&stream->thread, NULL, camera_expose, camera) != 0) {
        stream->state = ACQ_IDLE;
        return unlock(camera, fail(GC_OUT_OF_MEMORY, "no thread for camera %s", camera->name));
    }
    return unlock(camera, GC_OK);
}

/* A frame is copied in one go under the lock, so that there is never a half-filled buffer for KILL to drop. */
ENTRY DSStopAcquisition(gc_handle handle, gc_enum flags) {
    if (flags != STOP_DEFAULT && flags != STOP_KILL) return fail(GC_INVALID_PARAMETER, "no stop flags %d", (int)flags);
    LOCK_STREAM(camera, handle);
    if (camera->stream.state != ACQ_RUNNING)
        return unlock(camera, fail(GC_RESOURCE_IN_USE, "camera %s is not acquiring", camera->name));
    if (flags != STOP_KILL && camera_is_dead(camera))
        return unlock(camera, fail(GC_IO, "camera %s cannot be told to stop: its link is gone", camera->name));
    stop_acquisition(camera);
    return unlock(camera, GC_OK);
}

ENTRY DSGetInfo(gc_handle handle, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_STREAM(camera, handle);
    const struct stream *stream = &camera->stream;
    switch (what) {
    case STREAM_ID: return unlock(camera, put_string(stream->port.id, type, value, size));
    case STREAM_DELIVERED: return unlock(camera, put_uint64(stream->delivered, type, value, size));
    case STREAM_UNDERRUN: return unlock(camera, put_uint64(stream->underrun, type, value, size));
    case STREAM_ANNOUNCED: return unlock(camera, put_size(stream->announced_count, type, value, size));
    case STREAM_QUEUED: return unlock(camera, put_size(stream->input.length, type, value, size));
    case STREAM_AWAITING: return unlock(camera, put_size(stream->output.length, type, value, size));
    case STREAM_STARTED: return unlock(camera, put_uint64(stream->started, type, value, size));
    case STREAM_PAYLOAD_SIZE: return unlock(camera, put_size(camera->registers.payload_size, type, value, size));
    case STREAM_GRABBING: return unlock(camera, put_bool(stream->state == ACQ_RUNNING, type, value, size));
    case STREAM_DEFINES_PAYLOAD_SIZE: return unlock(camera, put_bool(false, type, value, size));
    case STREAM_TLTYPE: return unlock(camera, put_string(TL_TYPE, type, value, size));
    case STREAM_CHUNKS_MAX: return unlock(camera, put_size(0, type, value, size));
    case STREAM_ANNOUNCE_MIN:
    case STREAM_ALIGNMENT: return unlock(camera, put_size(1, type, value, size));
    default: return unlock(camera, unknown_command(__func__, what));
    }
}

static gc_error image_info(const struct camera *camera, const struct buffer *buffer, gc_enum what, gc_enum *type,
                           void *value, size_t *size) {
    const struct registers *registers = &camera->registers;
    if (!buffer->new_data) return fail(GC_NOT_AVAILABLE, "the buffer holds no frame");
    switch (what) {
    case BUFFER_TIMESTAMP:
    case BUFFER_TIMESTAMP_NS: return put_uint64(buffer->timestamp_ns, type, value, size);
    case BUFFER_FRAME_ID: return put_uint64(buffer->frame_id, type, value, size);
    case BUFFER_PART_ID: return put_uint64(buffer->part_id, type, value, size);
    case BUFFER_WIDTH: return put_size(registers->width, type, value, size);
    case BUFFER_HEIGHT:
    case BUFFER_DELIVERED_HEIGHT: return put_size(registers->height, type, value, size);
    case BUFFER_XOFFSET: return put_size(registers->offset_x, type, value, size);
    case BUFFER_YOFFSET: return put_size(registers->offset_y, type, value, size);
    case BUFFER_XPADDING: return put_size(camera->padding, type, value, size);
    case BUFFER_YPADDING:
    case BUFFER_IMAGE_OFFSET: return put_size(0, type, value, size);
    case BUFFER_PAYLOAD_TYPE: return put_size(PAYLOAD_IMAGE, type, value, size);
    case BUFFER_PIXEL_FORMAT: {
        const uint32_t claimed = atomic_load(&feed_faults(&camera->feed)->format);
        return put_uint64(claimed != 0 ? claimed : registers->pixel_format, type, value, size);
    }
    case BUFFER_PIXEL_FORMAT_SPACE: return put_uint64(FORMAT_SPACE_PFNC32, type, value, size);
    case BUFFER_ENDIANNESS: return put_int32(ENDIAN_LITTLE, type, value, size);
    default: return unknown_command("DSGetBufferInfo", what);
    }
}

ENTRY DSGetBufferInfo(gc_handle handle, gc_handle buffer_handle, gc_enum what, gc_enum *type, void *value,
                      size_t *size) {
    LOCK_STREAM(camera, handle);
    struct buffer **link = find_buffer(&camera->stream, buffer_handle);
    if (link == NULL) return no_buffer(camera);
    const struct buffer *buffer = *link;
    switch (what) {
    case BUFFER_BASE: return unlock(camera, put_pointer(buffer->base, type, value, size));
    case BUFFER_SIZE: return unlock(camera, put_size(buffer->size, type, value, size));
    case BUFFER_USER: return unlock(camera, put_pointer(buffer->user, type, value, size));
    case BUFFER_NEW_DATA:
    case BUFFER_HAS_IMAGE: return unlock(camera, put_bool(buffer->new_data, type, value, size));
    case BUFFER_QUEUED: return unlock(camera, put_bool(buffer->pool != POOL_NONE, type, value, size));
    case BUFFER_ACQUIRING:
    case BUFFER_HAS_CHUNKS: return unlock(camera, put_bool(false, type, value, size));
    case BUFFER_INCOMPLETE:
    case BUFFER_DATA_TOO_LARGE: return unlock(camera, put_bool(buffer->incomplete, type, value, size));
    case BUFFER_TLTYPE: return unlock(camera, put_string(TL_TYPE, type, value, size));
    case BUFFER_SIZE_FILLED:
    case BUFFER_DATA_SIZE: return unlock(camera, put_size(buffer->filled, type, value, size));
    default: return unlock(camera, image_info(camera, buffer, what, type, value, size));
    }
}

/* The new-buffer event is the stream's only one, and its handle is the stream's own. */
ENTRY GCRegisterEvent(gc_handle source, gc_enum event, gc_handle *handle) {
    if (require_library() != GC_OK) return GC_NOT_INITIALIZED;
    if (source == NULL) return fail(GC_INVALID_HANDLE, "GCRegisterEvent: no module given");
    if (handle == NULL) return fail(GC_INVALID_PARAMETER, "GCRegisterEvent: no place for the handle");
    struct camera *camera = event == EVENT_NEW_BUFFER ? lock_stream(source) : NULL;
    if (camera == NULL) return fail(GC_NOT_IMPLEMENTED, "the module has no event %d", (int)event);
    if (camera->stream.event_registered)
        return unlock(camera, fail(GC_RESOURCE_IN_USE, "the new-buffer event is registered already"));
    camera->stream.event_registered = true;
    camera->stream.event_killed = false;
    *handle = source;
    return unlock(camera, GC_OK);
}

ENTRY GCUnregisterEvent(gc_handle source, gc_enum event) {
    LOCK_STREAM(camera, source);
    if (event != EVENT_NEW_BUFFER || !camera->stream.event_registered)
        return unlock(camera, fail(GC_INVALID_PARAMETER, "event %d is not registered", (int)event));
    camera->stream.event_registered = false;
    pthread_cond_broadcast(&camera->ready);
    return unlock(camera, GC_OK);
}

#define LOCK_EVENT(camera, handle)                                                      \
    LOCK_STREAM(camera, handle);                                                        \
    if (!camera->stream.event_registered)                                               \
    return unlock(camera, fail(GC_INVALID_HANDLE, "%s: the event is not registered", __func__))

ENTRY EventGetData(gc_handle event, void *data, size_t *size, uint64_t timeout_ms) {
    if (data == NULL || size == NULL) return fail(GC_INVALID_PARAMETER, "EventGetData: no place for the event");
    if (*size < sizeof(struct new_buffer))
        return fail(GC_BUFFER_TOO_SMALL, "EventGetData: a new-buffer event has %zu bytes", sizeof(struct new_buffer));
    struct camera *may_hang = camera_of_stream(event);
    if (may_hang != NULL && may_hang->stream.port.open) camera_may_hang(may_hang);
    LOCK_EVENT(camera, event);
    struct stream *stream = &camera->stream;
    const uint64_t now = monotonic_ns();
    /* Later than the clock can ever be is as good as never. */
    const uint64_t deadline_ns = timeout_ms < (INT64_MAX - now) / NS_PER_MS ? now + timeout_ms * NS_PER_MS : INT64_MAX;
    /* Faults come from other processes, which wake nobody. */
    uint64_t until_ns = now;
    while (stream->event_registered && !stream->event_killed && stream->output.length == 0 && !camera_is_dead(camera) &&
           until_ns < deadline_ns) {
        until_ns = monotonic_ns() + FAULT_POLL_NS;
        if (until_ns > deadline_ns) until_ns = deadline_ns;
        if (wait_until(&camera->ready, &camera->lock, until_ns) != ETIMEDOUT) until_ns = now;
    }
    if (stream->event_registered && camera_is_dead(camera))
        return unlock(camera, fail(GC_IO, "no buffer from camera %s: its link is gone", camera->name));
    if (!stream->event_registered) return unlock(camera, fail(GC_ABORT, "the event was unregistered"));
    if (stream->event_killed) {
        stream->event_killed = false;
        return unlock(camera, fail(GC_ABORT, "the wait was ended by EventKill"));
    }
    struct buffer *buffer = queue_take(&stream->output);
    if (buffer == NULL)
        return unlock(camera, fail(GC_TIMEOUT, "no buffer from camera %s within %llu ms", camera->name,
                                   (unsigned long long)timeout_ms));
    struct new_buffer *result = data;
    result->buffer = buffer;
    result->user = buffer->user;
    *size = sizeof *result;
    stream->fired++;
    return unlock(camera, GC_OK);
}

ENTRY EventGetInfo(gc_handle event, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_EVENT(camera, event);
    const struct stream *stream = &camera->stream;
    switch (what) {
    case EVENT_INFO_TYPE: return unlock(camera, put_int32(EVENT_NEW_BUFFER, type, value, size));
    case EVENT_INFO_IN_QUEUE: return unlock(camera, put_size(stream->output.length, type, value, size));
    case EVENT_INFO_FIRED: return unlock(camera, put_uint64(stream->fired, type, value, size));
    case EVENT_INFO_SIZE_MAX:
    case EVENT_INFO_DATA_SIZE_MAX:
        return unlock(camera, put_size(sizeof(struct new_buffer), type, value, size));
    default: return unlock(camera, unknown_command(__func__, what));
    }
}

/* Events and filled buffers are one queue: with its event, a buffer goes back to the consumer unfetched. */
ENTRY EventFlush(gc_handle event) {
    LOCK_EVENT(camera, event);
    discard(&camera->stream.output);
    return unlock(camera, GC_OK);
}

/* Ends one wait: the one that is under way, or else the next. */
ENTRY EventKill(gc_handle event) {
    LOCK_EVENT(camera, event);
    camera->stream.event_killed = true;
    pthread_cond_broadcast(&camera->ready);
    return unlock(camera, GC_OK);
}
