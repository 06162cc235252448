/* What harvesters never asks for and other consumers do: buffers of the producer's own, registers in one call. */
#include <stdlib.h>

#include "sim.h"

ENTRY DSAllocAndAnnounceBuffer(gc_handle handle, size_t size, void *user, gc_handle *result) {
    void *memory = size == 0 ? NULL : calloc(1, size);
    if (memory == NULL) return fail(GC_OUT_OF_MEMORY, "no memory for a buffer of %zu bytes", size);
    const gc_error code = DSAnnounceBuffer(handle, memory, size, user, result);
    if (code == GC_OK)
        ((struct buffer *)*result)->owned = true; /* nobody else knows it yet */
    else
        free(memory);
    return code;
}

/* Buffers are counted in the order in which they were announced; the list begins with the last one. */
ENTRY DSGetBufferID(gc_handle handle, uint32_t index, gc_handle *result) {
    struct camera *camera = camera_of_stream(handle);
    if (result == NULL) return fail(GC_INVALID_PARAMETER, "DSGetBufferID: no place for the handle");
    if (camera == NULL) return fail(GC_INVALID_HANDLE, "DSGetBufferID: not an open data stream");
    pthread_mutex_lock(&camera->lock);
    const size_t count = camera->stream.announced_count;
    struct buffer *buffer = index < count ? camera->stream.announced : NULL;
    for (size_t later = index < count ? count - 1 - index : 0; later > 0; later--) buffer = buffer->next;
    pthread_mutex_unlock(&camera->lock);
    if (buffer == NULL) return fail(GC_INVALID_INDEX, "%zu buffers are announced", count);
    *result = buffer;
    return GC_OK;
}

ENTRY EventGetDataInfo(gc_handle event, const void *data, size_t data_size, gc_enum what, gc_enum *type, void *value,
                       size_t *size) {
    const struct new_buffer *news = data;
    if (camera_of_stream(event) == NULL) return fail(GC_INVALID_HANDLE, "EventGetDataInfo: not a new-buffer event");
    if (data == NULL || data_size < sizeof *news)
        return fail(GC_INVALID_PARAMETER, "EventGetDataInfo: not the data of a new-buffer event");
    switch (what) {
    case EVENT_DATA_ID: return put_pointer(news->buffer, type, value, size);
    case EVENT_DATA_VALUE: return put_pointer(news->user, type, value, size);
    default: return unknown_command("EventGetDataInfo", what);
    }
}

/* The older question, for consumers that know no other. */
ENTRY GCGetPortURL(gc_handle port, char *url, size_t *size) {
    return GCGetPortURLInfo(port, 0, URL_TEXT, NULL, url, size);
}

/* In order, up to the first that fails; `count` tells how many succeeded. */
ENTRY GCReadPortStacked(gc_handle port, struct register_access *accesses, size_t *count) {
    gc_error code = GC_OK;
    size_t done = 0;
    if (accesses == NULL || count == NULL) return fail(GC_INVALID_PARAMETER, "GCReadPortStacked: no registers given");
    for (; done < *count; done++)
        if ((code = GCReadPort(port, accesses[done].address, accesses[done].data, &accesses[done].size)) != GC_OK) break;
    *count = done;
    return code;
}

ENTRY GCWritePortStacked(gc_handle port, struct register_access *accesses, size_t *count) {
    gc_error code = GC_OK;
    size_t done = 0;
    if (accesses == NULL || count == NULL) return fail(GC_INVALID_PARAMETER, "GCWritePortStacked: no registers given");
    for (; done < *count; done++)
        if ((code = GCWritePort(port, accesses[done].address, accesses[done].data, &accesses[done].size)) != GC_OK) break;
    *count = done;
    return code;
}
