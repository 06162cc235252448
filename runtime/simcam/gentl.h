/* The part of the GenTL 1.6 interface (EMVA, "GenICam GenTL Standard") that this producer speaks.
 *
 * Numbers are the standard's, stated here by hand; names are ours, except for the exported functions, which a
 * consumer looks up by the standard's name. Every handle is an opaque pointer and every enumeration travels as
 * a 32-bit integer.
 */
#ifndef INSPECTD_GENTL_H
#define INSPECTD_GENTL_H

#include <stddef.h>
#include <stdint.h>

#define ENTRY __attribute__((visibility("default"))) gc_error

typedef int32_t gc_error;
typedef void *gc_handle;
typedef int32_t gc_enum;
typedef uint8_t gc_bool;

enum {
    GC_OK = 0,
    GC_NOT_INITIALIZED = -1002,
    GC_NOT_IMPLEMENTED = -1003,
    GC_RESOURCE_IN_USE = -1004,
    GC_ACCESS_DENIED = -1005,
    GC_INVALID_HANDLE = -1006,
    GC_INVALID_ID = -1007,
    GC_NO_DATA = -1008,
    GC_INVALID_PARAMETER = -1009,
    GC_IO = -1010,
    GC_TIMEOUT = -1011,
    GC_ABORT = -1012,
    GC_INVALID_BUFFER = -1013,
    GC_NOT_AVAILABLE = -1014,
    GC_INVALID_ADDRESS = -1015,
    GC_BUFFER_TOO_SMALL = -1016,
    GC_INVALID_INDEX = -1017,
    GC_INVALID_VALUE = -1019,
    GC_OUT_OF_MEMORY = -1021,
    GC_BUSY = -1022,
};

/* Wait for ever; acquire for ever. */
#define GC_INFINITE UINT64_MAX

/* Type tags of what the ...GetInfo functions hand out. */
enum {
    TYPE_STRING = 1,
    TYPE_INT32 = 5,
    TYPE_UINT32 = 6,
    TYPE_UINT64 = 8,
    TYPE_PTR = 10,
    TYPE_BOOL8 = 11,
    TYPE_SIZET = 12,
};

/* What can be asked of the library and of its system module. */
enum {
    SYSTEM_ID,
    SYSTEM_VENDOR,
    SYSTEM_MODEL,
    SYSTEM_VERSION,
    SYSTEM_TLTYPE,
    SYSTEM_NAME,
    SYSTEM_PATHNAME,
    SYSTEM_DISPLAYNAME,
    SYSTEM_CHAR_ENCODING,
    SYSTEM_GENTL_MAJOR,
    SYSTEM_GENTL_MINOR,
};

enum { INTERFACE_ID, INTERFACE_DISPLAYNAME, INTERFACE_TLTYPE };

enum {
    DEVICE_ID,
    DEVICE_VENDOR,
    DEVICE_MODEL,
    DEVICE_TLTYPE,
    DEVICE_DISPLAYNAME,
    DEVICE_ACCESS_STATUS,
    DEVICE_USER_NAME,
    DEVICE_SERIAL,
    DEVICE_VERSION,
    DEVICE_TICK_FREQUENCY,
};

enum { OPEN_READONLY = 2, OPEN_CONTROL = 3, OPEN_EXCLUSIVE = 4 };
enum { STATUS_READWRITE = 1, STATUS_NOACCESS = 3, STATUS_BUSY = 4, STATUS_OPEN_READWRITE = 5 };

enum {
    PORT_ID,
    PORT_VENDOR,
    PORT_MODEL,
    PORT_TLTYPE,
    PORT_MODULE,
    PORT_LITTLE_ENDIAN,
    PORT_BIG_ENDIAN,
    PORT_READABLE,
    PORT_WRITABLE,
    PORT_NA,
    PORT_NI,
    PORT_VERSION,
    PORT_NAME,
};

/* What can be asked of the description (XML) behind a port; its scheme is always 0, "in the register space". */
enum {
    URL_TEXT = 0,
    URL_SCHEMA_MAJOR = 1,
    URL_SCHEMA_MINOR = 2,
    URL_FILE_MAJOR = 3,
    URL_FILE_MINOR = 4,
    URL_FILE_SUBMINOR = 5,
    URL_ADDRESS = 7,
    URL_SIZE = 8,
    URL_SCHEME = 9,
    URL_FILENAME = 10,
};

enum {
    STREAM_ID,
    STREAM_DELIVERED,
    STREAM_UNDERRUN,
    STREAM_ANNOUNCED,
    STREAM_QUEUED,
    STREAM_AWAITING,
    STREAM_STARTED,
    STREAM_PAYLOAD_SIZE,
    STREAM_GRABBING,
    STREAM_DEFINES_PAYLOAD_SIZE,
    STREAM_TLTYPE,
    STREAM_CHUNKS_MAX,
    STREAM_ANNOUNCE_MIN,
    STREAM_ALIGNMENT,
};

enum {
    BUFFER_BASE = 0,
    BUFFER_SIZE = 1,
    BUFFER_USER = 2,
    BUFFER_TIMESTAMP = 3,
    BUFFER_NEW_DATA = 4,
    BUFFER_QUEUED = 5,
    BUFFER_ACQUIRING = 6,
    BUFFER_INCOMPLETE = 7,
    BUFFER_TLTYPE = 8,
    BUFFER_SIZE_FILLED = 9,
    BUFFER_WIDTH = 10,
    BUFFER_HEIGHT = 11,
    BUFFER_XOFFSET = 12,
    BUFFER_YOFFSET = 13,
    BUFFER_XPADDING = 14,
    BUFFER_YPADDING = 15,
    BUFFER_FRAME_ID = 16,
    BUFFER_HAS_IMAGE = 17,
    BUFFER_IMAGE_OFFSET = 18,
    BUFFER_PAYLOAD_TYPE = 19,
    BUFFER_PIXEL_FORMAT = 20,
    BUFFER_PIXEL_FORMAT_SPACE = 21,
    BUFFER_DELIVERED_HEIGHT = 22,
    BUFFER_ENDIANNESS = 26,
    BUFFER_DATA_SIZE = 27,
    BUFFER_TIMESTAMP_NS = 28,
    BUFFER_DATA_TOO_LARGE = 29,
    BUFFER_HAS_CHUNKS = 30,
    BUFFER_PART_ID = 1000, /* ours: the first number the standard leaves to vendors */
};

enum { PAYLOAD_IMAGE = 1, ENDIAN_LITTLE = 1, FORMAT_SPACE_PFNC32 = 4 };

/* GenICam Pixel Format Naming Convention. */
enum { PFNC_MONO8 = 0x01080001, PFNC_MONO12P = 0x010C0047, PFNC_BAYER_RG8 = 0x01080009, PFNC_RGB8 = 0x02180014 };

enum { STOP_DEFAULT = 0, STOP_KILL = 1 };

enum { FLUSH_INPUT_TO_OUTPUT, FLUSH_OUTPUT_DISCARD, FLUSH_ALL_TO_INPUT, FLUSH_UNQUEUED_TO_INPUT, FLUSH_ALL_DISCARD };

enum { EVENT_NEW_BUFFER = 1 };
enum { EVENT_INFO_TYPE, EVENT_INFO_IN_QUEUE, EVENT_INFO_FIRED, EVENT_INFO_SIZE_MAX, EVENT_INFO_DATA_SIZE_MAX };

enum { EVENT_DATA_ID, EVENT_DATA_VALUE };

/* One of several registers that are read or written in one call. */
struct register_access {
    uint64_t address;
    void *data;
    size_t size;
};

/* What a new-buffer event carries. */
struct new_buffer {
    gc_handle buffer;
    void *user;
};

ENTRY GCInitLib(void);
ENTRY GCCloseLib(void);
ENTRY GCGetInfo(gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY GCGetLastError(gc_error *code, char *text, size_t *size);
ENTRY GCReadPort(gc_handle port, uint64_t address, void *data, size_t *size);
ENTRY GCWritePort(gc_handle port, uint64_t address, const void *data, size_t *size);
ENTRY GCReadPortStacked(gc_handle port, struct register_access *accesses, size_t *count);
ENTRY GCWritePortStacked(gc_handle port, struct register_access *accesses, size_t *count);
ENTRY GCGetPortURL(gc_handle port, char *url, size_t *size);
ENTRY GCGetPortInfo(gc_handle port, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY GCGetNumPortURLs(gc_handle port, uint32_t *count);
ENTRY GCGetPortURLInfo(gc_handle port, uint32_t index, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY GCRegisterEvent(gc_handle source, gc_enum event, gc_handle *handle);
ENTRY GCUnregisterEvent(gc_handle source, gc_enum event);

ENTRY EventGetData(gc_handle event, void *data, size_t *size, uint64_t timeout_ms);
ENTRY EventGetDataInfo(gc_handle event, const void *data, size_t data_size, gc_enum what, gc_enum *type, void *value,
                       size_t *size);
ENTRY EventGetInfo(gc_handle event, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY EventFlush(gc_handle event);
ENTRY EventKill(gc_handle event);

ENTRY TLOpen(gc_handle *system);
ENTRY TLClose(gc_handle system);
ENTRY TLGetInfo(gc_handle system, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY TLGetNumInterfaces(gc_handle system, uint32_t *count);
ENTRY TLGetInterfaceID(gc_handle system, uint32_t index, char *id, size_t *size);
ENTRY TLGetInterfaceInfo(gc_handle system, const char *id, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY TLOpenInterface(gc_handle system, const char *id, gc_handle *interface);
ENTRY TLUpdateInterfaceList(gc_handle system, gc_bool *changed, uint64_t timeout_ms);

ENTRY IFClose(gc_handle interface);
ENTRY IFGetInfo(gc_handle interface, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY IFGetNumDevices(gc_handle interface, uint32_t *count);
ENTRY IFGetDeviceID(gc_handle interface, uint32_t index, char *id, size_t *size);
ENTRY IFUpdateDeviceList(gc_handle interface, gc_bool *changed, uint64_t timeout_ms);
ENTRY IFGetDeviceInfo(gc_handle interface, const char *id, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY IFGetParentTL(gc_handle interface, gc_handle *system);
ENTRY IFOpenDevice(gc_handle interface, const char *id, gc_enum access, gc_handle *device);

ENTRY DevGetPort(gc_handle device, gc_handle *port);
ENTRY DevGetNumDataStreams(gc_handle device, uint32_t *count);
ENTRY DevGetDataStreamID(gc_handle device, uint32_t index, char *id, size_t *size);
ENTRY DevOpenDataStream(gc_handle device, const char *id, gc_handle *stream);
ENTRY DevGetParentIF(gc_handle device, gc_handle *interface);
ENTRY DevGetInfo(gc_handle device, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY DevClose(gc_handle device);

ENTRY DSAnnounceBuffer(gc_handle stream, void *base, size_t size, void *user, gc_handle *buffer);
ENTRY DSAllocAndAnnounceBuffer(gc_handle stream, size_t size, void *user, gc_handle *buffer);
ENTRY DSGetBufferID(gc_handle stream, uint32_t index, gc_handle *buffer);
ENTRY DSGetParentDev(gc_handle stream, gc_handle *device);
ENTRY DSQueueBuffer(gc_handle stream, gc_handle buffer);
ENTRY DSRevokeBuffer(gc_handle stream, gc_handle buffer, void **base, void **user);
ENTRY DSFlushQueue(gc_handle stream, gc_enum operation);
ENTRY DSStartAcquisition(gc_handle stream, gc_enum flags, uint64_t count);
ENTRY DSStopAcquisition(gc_handle stream, gc_enum flags);
ENTRY DSGetInfo(gc_handle stream, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY DSGetBufferInfo(gc_handle stream, gc_handle buffer, gc_enum what, gc_enum *type, void *value, size_t *size);
ENTRY DSClose(gc_handle stream);

#endif
