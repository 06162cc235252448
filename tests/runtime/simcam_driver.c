/* A bare GenTL consumer for memory checkers: opens the first camera, takes frames, closes, three times over.
 * `simcam_driver N`: N frames each time; the number of complete ones on standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "gentl.h"

#define BUFFERS 4
#define TIMEOUT_MS 2000
#define ACQUISITION_START 0x150
#define FRAME_RATE 0x158
#define PAYLOAD_SIZE 0x14C

static void must(gc_error code, const char *what) {
    if (code == GC_OK) return;
    fprintf(stderr, "%s: error %d\n", what, (int)code);
    exit(3);
}
#define MUST(call) must(call, #call)

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

int main(int count, char **arguments) {
    int complete = 0;
    if (count != 2) return 2;
    MUST(GCInitLib());
    for (int i = 0; i < 3; i++) complete += session(atoi(arguments[1]));
    MUST(GCCloseLib());
    printf("%d\n", complete);
    return 0;
}
