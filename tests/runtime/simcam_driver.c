/* A bare GenTL consumer for memory checkers: opens the first camera, takes frames, closes, three times over.
 * `simcam_driver N`: N frames each time; the number of complete ones on standard output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gentl.h"

#define BUFFERS 4
#define TIMEOUT_MS 2000
#define WIDTH 0x140
#define ACQUISITION_START 0x150
#define FRAME_RATE 0x158
#define PAYLOAD_SIZE 0x14C

static void must(gc_error code, const char *what) {
    if (code == GC_OK) return;
    fprintf(stderr, "%s: error %d\n", what, (int)code);
    exit(3);
}
#define MUST(call) must(call, #call)

static void same(long got, long expected, const char *what) {
    if (got == expected) return;
    fprintf(stderr, "%s: got %ld, expected %ld\n", what, got, expected);
    exit(4);
}

static int session(int frames) {
    gc_handle system, interface, device, port, stream, event, buffers[BUFFERS];
    char id[256];
    size_t size = sizeof id;
    gc_bool changed;
    int complete = 0;
    MUST(TLOpen(&system));
    MUST(TLUpdateInterfaceList(system, &changed, TIMEOUT_MS));
    MUST(TLGetInterfaceID(system, 0, id, &size));
    MUST(TLOpenInterface(system, id, &interface));
    MUST(IFUpdateDeviceList(interface, &changed, TIMEOUT_MS));
    size = sizeof id;
    MUST(IFGetDeviceID(interface, 0, id, &size));
    MUST(IFOpenDevice(interface, id, OPEN_EXCLUSIVE, &device));
    MUST(DevGetPort(device, &port));
    size = sizeof id;
    MUST(DevGetDataStreamID(device, 0, id, &size));
    MUST(DevOpenDataStream(device, id, &stream));
    uint32_t payload = 0, start = 1;
    double rate_hz = 500.0;
    MUST(GCReadPort(port, PAYLOAD_SIZE, &payload, &(size_t){sizeof payload}));
    MUST(GCWritePort(port, FRAME_RATE, &rate_hz, &(size_t){sizeof rate_hz}));
    for (int i = 0; i < BUFFERS; i++) {
        MUST(DSAnnounceBuffer(stream, malloc(payload), payload, NULL, &buffers[i]));
        MUST(DSQueueBuffer(stream, buffers[i]));
    }
    MUST(GCRegisterEvent(stream, EVENT_NEW_BUFFER, &event));
    MUST(DSStartAcquisition(stream, 0, GC_INFINITE));
    MUST(GCWritePort(port, ACQUISITION_START, &start, &(size_t){sizeof start}));
    for (int i = 0; i < frames; i++) {
        struct new_buffer filled;
        gc_bool incomplete = 0;
        unsigned char sum = 0;
        size_t bytes = 0;
        void *base;
        MUST(EventGetData(event, &filled, &(size_t){sizeof filled}, TIMEOUT_MS));
        MUST(DSGetBufferInfo(stream, filled.buffer, BUFFER_INCOMPLETE, NULL, &incomplete, &(size_t){sizeof incomplete}));
        MUST(DSGetBufferInfo(stream, filled.buffer, BUFFER_SIZE_FILLED, NULL, &bytes, &(size_t){sizeof bytes}));
        MUST(DSGetBufferInfo(stream, filled.buffer, BUFFER_BASE, NULL, &base, &(size_t){sizeof base}));
        /* A byte that was never written would be told here. */
        for (size_t k = 0; k < bytes; k++) sum ^= ((unsigned char *)base)[k];
        if (sum == 255) fputc(' ', stderr);
        complete += !incomplete;
        MUST(DSQueueBuffer(stream, filled.buffer));
    }
    MUST(DSStopAcquisition(stream, STOP_DEFAULT));
    MUST(GCUnregisterEvent(stream, EVENT_NEW_BUFFER));
    MUST(DSFlushQueue(stream, FLUSH_ALL_DISCARD));
    for (int i = 0; i < BUFFERS; i++) {
        void *base;
        MUST(DSRevokeBuffer(stream, buffers[i], &base, NULL));
        free(base);
    }
    MUST(DSClose(stream));
    MUST(DevClose(device));
    MUST(IFClose(interface));
    MUST(TLClose(system));
    return complete;
}

/* What harvesters never asks for; the device is closed while a buffer of the producer's own is announced. */
static void others(void) {
    gc_handle system, interface, device, port, stream, event, first, second, other;
    char id[256], url[256];
    uint32_t words[2] = {0};
    struct register_access accesses[] = {{WIDTH, &words[0], 4}, {WIDTH + 4, &words[1], 4}, {0x9000, &words[1], 4}};
    struct new_buffer news;
    size_t accessed = 3;
    MUST(TLOpen(&system));
    MUST(TLOpenInterface(system, "feeds", &interface));
    MUST(IFUpdateDeviceList(interface, NULL, TIMEOUT_MS));
    MUST(IFGetDeviceID(interface, 0, id, &(size_t){sizeof id}));
    MUST(IFOpenDevice(interface, id, OPEN_EXCLUSIVE, &device));
    MUST(DevGetPort(device, &port));
    MUST(GCGetPortURL(port, url, &(size_t){sizeof url}));
    same(strncmp(url, "local:inspectd_sim_Device.xml;", 30), 0, "the description");
    same(GCReadPortStacked(port, accesses, &accessed), GC_INVALID_ADDRESS, "the third register");
    same((long)accessed, 2, "registers read");
    same(words[0], 37, "width");
    same(words[1], 23, "height");
    MUST(GCWritePortStacked(port, accesses, &accessed));
    MUST(DevOpenDataStream(device, "stream0", &stream));
    MUST(IFGetParentTL(interface, &other));
    same(other == system, 1, "the interface's system");
    MUST(DevGetParentIF(device, &other));
    same(other == interface, 1, "the device's interface");
    MUST(DSGetParentDev(stream, &other));
    same(other == device, 1, "the stream's device");
    MUST(DSAllocAndAnnounceBuffer(stream, 37 * 23 * 3, &words, &first));
    MUST(DSAllocAndAnnounceBuffer(stream, 37 * 23 * 3, NULL, &second));
    same(DSAllocAndAnnounceBuffer(stream, 0, NULL, &other), GC_OUT_OF_MEMORY, "a buffer of nothing");
    MUST(DSGetBufferID(stream, 0, &other));
    same(other == first, 1, "the first buffer");
    same(DSGetBufferID(stream, 2, &other), GC_INVALID_INDEX, "the third buffer");
    MUST(GCRegisterEvent(stream, EVENT_NEW_BUFFER, &event));
    MUST(DSFlushQueue(stream, FLUSH_INPUT_TO_OUTPUT));
    MUST(DSQueueBuffer(stream, first));
    MUST(DSFlushQueue(stream, FLUSH_INPUT_TO_OUTPUT));
    MUST(EventGetData(event, &news, &(size_t){sizeof news}, TIMEOUT_MS));
    MUST(EventGetDataInfo(event, &news, sizeof news, EVENT_DATA_ID, NULL, &other, &(size_t){sizeof other}));
    same(other == first, 1, "the event's buffer");
    MUST(EventGetDataInfo(event, &news, sizeof news, EVENT_DATA_VALUE, NULL, &other, &(size_t){sizeof other}));
    same(other == &words, 1, "the event's user pointer");
    MUST(DSRevokeBuffer(stream, first, &other, NULL));
    same(other == NULL, 1, "memory that is not the consumer's");
    MUST(DevClose(device));
    MUST(TLClose(system));
}

int main(int count, char **arguments) {
    int complete = 0;
    if (count != 2) return 2;
    MUST(GCInitLib());
    others();
    for (int i = 0; i < 3; i++) complete += session(atoi(arguments[1]));
    MUST(GCCloseLib());
    printf("%d\n", complete);
    return 0;
}
