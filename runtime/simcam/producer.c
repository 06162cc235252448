/* The library, its one system and one interface, and the devices: what exists and who has it open. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define FEED_VARIABLE "INSPECTD_SIM_FEED"
#define FEED_SUFFIX ".feed"
#define SYSTEM_NAME_TEXT "inspectd_sim"
#define INTERFACE_NAME_TEXT "feeds"
#define STREAM_NAME_TEXT "stream0"

/* No module but the remote device has features; a consumer insists on a description all the same. */
#define MODULE_XML(port)                                                                                          \
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                                                                \
    "<RegisterDescription ModelName=\"Module\" VendorName=\"" VENDOR "\" ToolTip=\"\" StandardNameSpace=\"None\"" \
    " SchemaMajorVersion=\"1\" SchemaMinorVersion=\"1\" SchemaSubMinorVersion=\"0\""                              \
    " MajorVersion=\"1\" MinorVersion=\"0\" SubMinorVersion=\"0\""                                                \
    " ProductGuid=\"7C5B0E0C-6B0B-4C0E-9A51-2C6B77F3D103\""                                                       \
    " VersionGuid=\"7C5B0E0C-6B0B-4C0E-9A51-2C6B77F3D104\""                                                       \
    " xmlns=\"http://www.genicam.org/GenApi/Version_1_1\""                                                        \
    " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:schemaLocation=\"http://www.genicam.org/"       \
    "GenApi/Version_1_1 http://www.genicam.org/GenApi/GenApiSchema_Version_1_1.xsd\">"                            \
    "<Category Name=\"Root\" NameSpace=\"Standard\"/><Port Name=\"" port "\" NameSpace=\"Standard\"/>"            \
    "</RegisterDescription>\n"

#define MODULE_PORT(kind, port, port_id) \
    {.module = kind, .name = port, .id = port_id, .xml = MODULE_XML(port), .xml_size = sizeof MODULE_XML(port) - 1}

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool initialised;
static struct port system_port = MODULE_PORT("TLSystem", "TLPort", SYSTEM_NAME_TEXT);
static struct port interface_port = MODULE_PORT("TLInterface", "InterfacePort", INTERFACE_NAME_TEXT);
static struct camera cameras[MAX_CAMERAS]; /* a path keeps its place for as long as the library is loaded */
static struct camera *listed[MAX_CAMERAS]; /* what the last update of the device list found, in that order */
static uint32_t listed_count;

gc_error require_library(void) {
    return atomic_load(&initialised) ? GC_OK : fail(GC_NOT_INITIALIZED, "GCInitLib was not called");
}

static gc_error unlock(gc_error code) {
    pthread_mutex_unlock(&library);
    return code;
}

/* Enters a function of an open module; from here to the matching unlock() nothing is opened or closed. */
#define LOCK_MODULE(is_open)                                                  \
    if (require_library() != GC_OK) return GC_NOT_INITIALIZED;                \
    pthread_mutex_lock(&library);                                             \
    if (!(is_open)) return unlock(fail(GC_INVALID_HANDLE, "%s: not an open module of this kind", __func__))

#define LOCK_SYSTEM(handle) LOCK_MODULE(handle == &system_port && system_port.open)
#define LOCK_INTERFACE(handle) LOCK_MODULE(handle == &interface_port && interface_port.open)
#define LOCK_DEVICE(camera, handle)                       \
    struct camera *camera = camera_of_device(handle);     \
    LOCK_MODULE(camera != NULL && camera->local.open)

static struct camera *camera_of_device(gc_handle handle) {
    for (size_t i = 0; i < MAX_CAMERAS; i++)
        if (handle == &cameras[i].local) return &cameras[i];
    return NULL;
}

struct camera *camera_of_stream(gc_handle handle) {
    for (size_t i = 0; i < MAX_CAMERAS; i++)
        if (handle == &cameras[i].stream.port) return &cameras[i];
    return NULL;
}

/* ---- feed files become cameras ---- */

static void name_camera(struct camera *camera) {
    const char *base = strrchr(camera->path, '/');
    base = base == NULL ? camera->path : base + 1;
    size_t length = strlen(base), suffix = strlen(FEED_SUFFIX);
    if (length > suffix && strcmp(base + length - suffix, FEED_SUFFIX) == 0) length -= suffix;
    snprintf(camera->name, sizeof camera->name - 16, "%.*s", (int)length, base);
    /* Feeds of the same name in several folders still need serial numbers of their own. */
    const size_t end = strlen(camera->name);
    for (int copy = 2, i = 0; i < MAX_CAMERAS; i++) {
        if (&cameras[i] == camera || strcmp(cameras[i].name, camera->name) != 0) continue;
        snprintf(camera->name + end, sizeof camera->name - end, "-%d", copy++);
        i = -1;
    }
    snprintf(camera->id, sizeof camera->id, "sim:%.59s", camera->name);
}

static void prepare_camera(struct camera *camera, const char *path) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&camera->work, &monotonic);
    pthread_cond_init(&camera->ready, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&camera->lock, NULL);
    snprintf(camera->path, sizeof camera->path, "%s", path);
    name_camera(camera);
    camera->local = (struct port)MODULE_PORT("TLDevice", "DevicePort", camera->id);
    camera->stream.port = (struct port)MODULE_PORT("TLDataStream", "StreamPort", STREAM_NAME_TEXT);
    camera->remote = (struct port){.module = "Device", .name = "Device", .id = camera->id, .xml = device_xml};
    camera->remote.xml_size = (size_t)(device_xml_end - device_xml);
}

static void list_feed(const char *path) {
    if (strlen(path) >= PATH_SIZE || !feed_exists(path)) return;
    for (size_t i = 0; i < MAX_CAMERAS; i++) {
        struct camera *camera = &cameras[i];
        if (camera->path[0] == '\0') prepare_camera(camera, path);
        if (strcmp(camera->path, path) != 0) continue;
        for (uint32_t k = 0; k < listed_count; k++)
            if (listed[k] == camera) return;
        listed[listed_count++] = camera;
        return;
    }
}

static int is_feed_name(const struct dirent *entry) {
    const size_t length = strlen(entry->d_name), suffix = strlen(FEED_SUFFIX);
    return length > suffix && strcmp(entry->d_name + length - suffix, FEED_SUFFIX) == 0;
}

static void list_folder_or_feed(const char *path) {
    struct dirent **entries;
    const int count = scandir(path, &entries, is_feed_name, alphasort);
    if (count < 0) {
        list_feed(path);
        return;
    }
    for (int i = 0; i < count; i++) {
        char feed[PATH_SIZE];
        if (snprintf(feed, sizeof feed, "%s/%s", path, entries[i]->d_name) < (int)sizeof feed) list_feed(feed);
        free(entries[i]);
    }
    free(entries);
}

static void list_feeds(void) {
    const char *variable = getenv(FEED_VARIABLE);
    listed_count = 0;
    if (variable == NULL) return;
    char *paths = strdup(variable), *rest = paths;
    if (paths == NULL) return;
    for (char *path; (path = strsep(&rest, ":")) != NULL;)
        if (*path != '\0') list_folder_or_feed(path);
    free(paths);
}

static struct camera *find_camera(const char *id) {
    for (uint32_t i = 0; id != NULL && i < listed_count; i++)
        if (strcmp(listed[i]->id, id) == 0) return listed[i];
    return NULL;
}

/* ---- library ---- */

static void close_device(struct camera *camera) {
    if (!camera->local.open) return;
    if (camera->stream.port.open) stream_close(camera);
    camera->remote.open = false;
    camera->local.open = false;
    feed_close(&camera->feed);
}

static void close_interface(void) {
    for (size_t i = 0; i < MAX_CAMERAS; i++) close_device(&cameras[i]);
    interface_port.open = false;
}

static void close_system(void) {
    close_interface();
    system_port.open = false;
}

ENTRY GCInitLib(void) {
    bool expected = false;
    if (!atomic_compare_exchange_strong(&initialised, &expected, true))
        return fail(GC_RESOURCE_IN_USE, "GCInitLib was called already");
    return GC_OK;
}

ENTRY GCCloseLib(void) {
    if (require_library() != GC_OK) return GC_NOT_INITIALIZED;
    pthread_mutex_lock(&library);
    close_system();
    atomic_store(&initialised, false);
    return unlock(GC_OK);
}

ENTRY GCGetLastError(gc_error *code, char *text, size_t *size) {
    const char *message;
    gc_error last;
    if (code == NULL || size == NULL) return GC_INVALID_PARAMETER;
    last_error(&last, &message);
    *code = last;
    return put_string(message, NULL, text, size);
}

static const char *own_path(void) {
    Dl_info info;
    return dladdr((void *)&initialised, &info) != 0 && info.dli_fname != NULL ? info.dli_fname : "";
}

ENTRY GCGetInfo(gc_enum what, gc_enum *type, void *value, size_t *size) {
    const char *slash;
    switch (what) {
    case SYSTEM_ID: return put_string(SYSTEM_NAME_TEXT, type, value, size);
    case SYSTEM_VENDOR: return put_string(VENDOR, type, value, size);
    case SYSTEM_MODEL: return put_string("Simulated GenTL producer", type, value, size);
    case SYSTEM_VERSION: return put_string(VERSION, type, value, size);
    case SYSTEM_TLTYPE: return put_string(TL_TYPE, type, value, size);
    case SYSTEM_NAME:
        slash = strrchr(own_path(), '/');
        return put_string(slash == NULL ? own_path() : slash + 1, type, value, size);
    case SYSTEM_PATHNAME: return put_string(own_path(), type, value, size);
    case SYSTEM_DISPLAYNAME: return put_string("inspectd simulated cameras", type, value, size);
    case SYSTEM_CHAR_ENCODING: return put_int32(1, type, value, size); /* UTF-8 */
    case SYSTEM_GENTL_MAJOR: return put_uint32(1, type, value, size);
    case SYSTEM_GENTL_MINOR: return put_uint32(6, type, value, size);
    default: return unknown_command("GCGetInfo", what);
    }
}

/* ---- ports ---- */

static struct port *find_port(gc_handle handle, struct camera **remote_of) {
    *remote_of = NULL;
    if (handle == &system_port) return &system_port;
    if (handle == &interface_port) return &interface_port;
    for (size_t i = 0; i < MAX_CAMERAS; i++) {
        if (handle == &cameras[i].local) return &cameras[i].local;
        if (handle == &cameras[i].stream.port) return &cameras[i].stream.port;
        if (handle != &cameras[i].remote) continue;
        *remote_of = &cameras[i];
        return &cameras[i].remote;
    }
    return NULL;
}

#define LOCK_PORT(port, remote, handle)                \
    struct camera *remote;                             \
    struct port *port = find_port(handle, &remote);    \
    LOCK_MODULE(port != NULL && port->open)

/* Before any lock: others are to go on. */
static void hang_with_port(gc_handle handle) {
    for (size_t i = 0; i < MAX_CAMERAS; i++)
        if (handle == &cameras[i].remote && cameras[i].remote.open) camera_may_hang(&cameras[i]);
}

ENTRY GCReadPort(gc_handle handle, uint64_t address, void *data, size_t *size) {
    if (data == NULL || size == NULL) return fail(GC_INVALID_PARAMETER, "GCReadPort: no place for the data");
    hang_with_port(handle);
    LOCK_PORT(port, remote, handle);
    const uint64_t offset = address - XML_ADDRESS;
    if (address >= XML_ADDRESS && offset <= port->xml_size && *size <= port->xml_size - offset) {
        memcpy(data, port->xml + offset, *size);
        return unlock(GC_OK);
    }
    if (remote != NULL) return unlock(camera_read(remote, address, data, *size));
    return unlock(fail(GC_INVALID_ADDRESS, "module %s has no register at 0x%llx", port->module,
                       (unsigned long long)address));
}

ENTRY GCWritePort(gc_handle handle, uint64_t address, const void *data, size_t *size) {
    if (data == NULL || size == NULL) return fail(GC_INVALID_PARAMETER, "GCWritePort: no data");
    hang_with_port(handle);
    LOCK_PORT(port, remote, handle);
    if (remote != NULL) return unlock(camera_write(remote, address, data, *size));
    return unlock(fail(GC_INVALID_ADDRESS, "module %s has no register at 0x%llx", port->module,
                       (unsigned long long)address));
}

ENTRY GCGetPortInfo(gc_handle handle, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_PORT(port, remote, handle);
    switch (what) {
    case PORT_ID: return unlock(put_string(port->id, type, value, size));
    case PORT_VENDOR: return unlock(put_string(VENDOR, type, value, size));
    case PORT_MODEL: return unlock(put_string(remote != NULL ? MODEL : port->module, type, value, size));
    case PORT_TLTYPE: return unlock(put_string(TL_TYPE, type, value, size));
    case PORT_MODULE: return unlock(put_string(port->module, type, value, size));
    case PORT_LITTLE_ENDIAN:
    case PORT_READABLE: return unlock(put_bool(true, type, value, size));
    case PORT_WRITABLE: return unlock(put_bool(remote != NULL, type, value, size));
    case PORT_BIG_ENDIAN:
    case PORT_NA:
    case PORT_NI: return unlock(put_bool(false, type, value, size));
    case PORT_VERSION: return unlock(put_string(VERSION, type, value, size));
    case PORT_NAME: return unlock(put_string(port->name, type, value, size));
    default: return unlock(unknown_command(__func__, what));
    }
}

ENTRY GCGetNumPortURLs(gc_handle handle, uint32_t *count) {
    if (count == NULL) return fail(GC_INVALID_PARAMETER, "GCGetNumPortURLs: no place for the count");
    LOCK_PORT(port, remote, handle);
    (void)remote;
    *count = 1;
    return unlock(GC_OK);
}

ENTRY GCGetPortURLInfo(gc_handle handle, uint32_t index, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_PORT(port, remote, handle);
    (void)remote;
    char file[NAME_SIZE], url[2 * NAME_SIZE];
    if (index != 0) return unlock(fail(GC_INVALID_INDEX, "every port has one description, number 0"));
    snprintf(file, sizeof file, "inspectd_sim_%s.xml", port->module);
    snprintf(url, sizeof url, "local:%s;%x;%zx", file, XML_ADDRESS, port->xml_size);
    switch (what) {
    case URL_TEXT: return unlock(put_string(url, type, value, size));
    case URL_SCHEMA_MAJOR:
    case URL_SCHEMA_MINOR:
    case URL_FILE_MAJOR: return unlock(put_int32(1, type, value, size));
    case URL_FILE_MINOR:
    case URL_FILE_SUBMINOR:
    case URL_SCHEME: return unlock(put_int32(0, type, value, size));
    case URL_ADDRESS: return unlock(put_uint64(XML_ADDRESS, type, value, size));
    case URL_SIZE: return unlock(put_uint64(port->xml_size, type, value, size));
    case URL_FILENAME: return unlock(put_string(file, type, value, size));
    default: return unlock(unknown_command(__func__, what));
    }
}

/* ---- system ---- */

ENTRY TLOpen(gc_handle *handle) {
    if (handle == NULL) return fail(GC_INVALID_PARAMETER, "TLOpen: no place for the handle");
    LOCK_MODULE(true);
    if (system_port.open) return unlock(fail(GC_RESOURCE_IN_USE, "the system is open already"));
    system_port.open = true;
    *handle = &system_port;
    return unlock(GC_OK);
}

ENTRY TLClose(gc_handle handle) {
    LOCK_SYSTEM(handle);
    close_system();
    return unlock(GC_OK);
}

ENTRY TLGetInfo(gc_handle handle, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_SYSTEM(handle);
    return unlock(GCGetInfo(what, type, value, size));
}

ENTRY TLGetNumInterfaces(gc_handle handle, uint32_t *count) {
    if (count == NULL) return fail(GC_INVALID_PARAMETER, "TLGetNumInterfaces: no place for the count");
    LOCK_SYSTEM(handle);
    *count = 1;
    return unlock(GC_OK);
}

ENTRY TLGetInterfaceID(gc_handle handle, uint32_t index, char *id, size_t *size) {
    LOCK_SYSTEM(handle);
    if (index != 0) return unlock(fail(GC_INVALID_INDEX, "there is one interface, number 0"));
    return unlock(put_string(INTERFACE_NAME_TEXT, NULL, id, size));
}

static gc_error interface_info(gc_enum what, gc_enum *type, void *value, size_t *size) {
    switch (what) {
    case INTERFACE_ID: return put_string(INTERFACE_NAME_TEXT, type, value, size);
    case INTERFACE_DISPLAYNAME: return put_string("Feed files in " FEED_VARIABLE, type, value, size);
    case INTERFACE_TLTYPE: return put_string(TL_TYPE, type, value, size);
    default: return unknown_command("IFGetInfo", what);
    }
}

static bool is_interface(const char *id) {
    return id != NULL && strcmp(id, INTERFACE_NAME_TEXT) == 0;
}

ENTRY TLGetInterfaceInfo(gc_handle handle, const char *id, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_SYSTEM(handle);
    if (!is_interface(id)) return unlock(fail(GC_INVALID_ID, "the only interface is " INTERFACE_NAME_TEXT));
    return unlock(interface_info(what, type, value, size));
}

ENTRY TLOpenInterface(gc_handle handle, const char *id, gc_handle *interface) {
    if (interface == NULL) return fail(GC_INVALID_PARAMETER, "TLOpenInterface: no place for the handle");
    LOCK_SYSTEM(handle);
    if (!is_interface(id)) return unlock(fail(GC_INVALID_ID, "the only interface is " INTERFACE_NAME_TEXT));
    if (interface_port.open) return unlock(fail(GC_RESOURCE_IN_USE, "the interface is open already"));
    interface_port.open = true;
    *interface = &interface_port;
    return unlock(GC_OK);
}

ENTRY TLUpdateInterfaceList(gc_handle handle, gc_bool *changed, uint64_t timeout_ms) {
    (void)timeout_ms; /* nothing here takes time */
    LOCK_SYSTEM(handle);
    if (changed != NULL) *changed = 0;
    return unlock(GC_OK);
}

/* ---- interface ---- */

ENTRY IFClose(gc_handle handle) {
    LOCK_INTERFACE(handle);
    close_interface();
    return unlock(GC_OK);
}

ENTRY IFGetInfo(gc_handle handle, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_INTERFACE(handle);
    return unlock(interface_info(what, type, value, size));
}

ENTRY IFUpdateDeviceList(gc_handle handle, gc_bool *changed, uint64_t timeout_ms) {
    (void)timeout_ms; /* nothing here takes time */
    LOCK_INTERFACE(handle);
    struct camera *before[MAX_CAMERAS];
    const uint32_t count_before = listed_count;
    memcpy(before, listed, sizeof before);
    list_feeds();
    if (changed != NULL)
        *changed = listed_count != count_before || memcmp(before, listed, listed_count * sizeof *listed) != 0;
    return unlock(GC_OK);
}

ENTRY IFGetNumDevices(gc_handle handle, uint32_t *count) {
    if (count == NULL) return fail(GC_INVALID_PARAMETER, "IFGetNumDevices: no place for the count");
    LOCK_INTERFACE(handle);
    *count = listed_count;
    return unlock(GC_OK);
}

ENTRY IFGetDeviceID(gc_handle handle, uint32_t index, char *id, size_t *size) {
    LOCK_INTERFACE(handle);
    if (index >= listed_count) return unlock(fail(GC_INVALID_INDEX, "there are %u devices", listed_count));
    return unlock(put_string(listed[index]->id, NULL, id, size));
}

static gc_error device_info(struct camera *camera, gc_enum what, gc_enum *type, void *value, size_t *size) {
    switch (what) {
    case DEVICE_ID: return put_string(camera->id, type, value, size);
    case DEVICE_VENDOR: return put_string(VENDOR, type, value, size);
    case DEVICE_MODEL: return put_string(MODEL, type, value, size);
    case DEVICE_TLTYPE: return put_string(TL_TYPE, type, value, size);
    case DEVICE_DISPLAYNAME:
    case DEVICE_USER_NAME:
    case DEVICE_SERIAL: return put_string(camera->name, type, value, size);
    case DEVICE_ACCESS_STATUS:
        if (camera->local.open)
            return put_int32(camera_is_dead(camera) ? STATUS_NOACCESS : STATUS_OPEN_READWRITE, type, value, size);
        if (!feed_exists(camera->path)) return put_int32(STATUS_NOACCESS, type, value, size);
        return put_int32(feed_is_held(camera->path) ? STATUS_BUSY : STATUS_READWRITE, type, value, size);
    case DEVICE_VERSION: return put_string(VERSION, type, value, size);
    case DEVICE_TICK_FREQUENCY: return put_uint64(1000000000u, type, value, size);
    default: return unknown_command("DevGetInfo", what);
    }
}

ENTRY IFGetDeviceInfo(gc_handle handle, const char *id, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_INTERFACE(handle);
    struct camera *camera = find_camera(id);
    if (camera == NULL) return unlock(fail(GC_INVALID_ID, "no device %s", id == NULL ? "(none)" : id));
    return unlock(device_info(camera, what, type, value, size));
}

/* Whatever access is asked for, one process at a time has the camera. */
ENTRY IFOpenDevice(gc_handle handle, const char *id, gc_enum access, gc_handle *device) {
    if (device == NULL) return fail(GC_INVALID_PARAMETER, "IFOpenDevice: no place for the handle");
    if (access < OPEN_READONLY || access > OPEN_EXCLUSIVE)
        return fail(GC_INVALID_PARAMETER, "no access mode %d", (int)access);
    LOCK_INTERFACE(handle);
    struct camera *camera = find_camera(id);
    if (camera == NULL) return unlock(fail(GC_INVALID_ID, "no device %s", id == NULL ? "(none)" : id));
    if (camera->local.open) return unlock(fail(GC_RESOURCE_IN_USE, "camera %s is open already", camera->name));
    const gc_error code = feed_open(&camera->feed, camera->path);
    if (code != GC_OK) return unlock(code);
    camera_reset(camera);
    camera->local.open = true;
    camera->remote.open = true;
    *device = &camera->local;
    return unlock(GC_OK);
}

ENTRY IFGetParentTL(gc_handle handle, gc_handle *system) {
    if (system == NULL) return fail(GC_INVALID_PARAMETER, "IFGetParentTL: no place for the handle");
    LOCK_INTERFACE(handle);
    *system = &system_port;
    return unlock(GC_OK);
}

/* ---- device ---- */

ENTRY DevGetPort(gc_handle handle, gc_handle *port) {
    if (port == NULL) return fail(GC_INVALID_PARAMETER, "DevGetPort: no place for the handle");
    LOCK_DEVICE(camera, handle);
    *port = &camera->remote;
    return unlock(GC_OK);
}

ENTRY DevGetNumDataStreams(gc_handle handle, uint32_t *count) {
    if (count == NULL) return fail(GC_INVALID_PARAMETER, "DevGetNumDataStreams: no place for the count");
    LOCK_DEVICE(camera, handle);
    *count = 1;
    return unlock(GC_OK);
}

ENTRY DevGetDataStreamID(gc_handle handle, uint32_t index, char *id, size_t *size) {
    LOCK_DEVICE(camera, handle);
    if (index != 0) return unlock(fail(GC_INVALID_INDEX, "camera %s has one data stream, number 0", camera->name));
    return unlock(put_string(STREAM_NAME_TEXT, NULL, id, size));
}

ENTRY DevOpenDataStream(gc_handle handle, const char *id, gc_handle *stream) {
    if (stream == NULL) return fail(GC_INVALID_PARAMETER, "DevOpenDataStream: no place for the handle");
    LOCK_DEVICE(camera, handle);
    if (id == NULL || strcmp(id, STREAM_NAME_TEXT) != 0)
        return unlock(fail(GC_INVALID_ID, "the only data stream is " STREAM_NAME_TEXT));
    if (camera->stream.port.open) return unlock(fail(GC_RESOURCE_IN_USE, "the data stream is open already"));
    stream_open(camera);
    *stream = &camera->stream.port;
    return unlock(GC_OK);
}

ENTRY DevGetInfo(gc_handle handle, gc_enum what, gc_enum *type, void *value, size_t *size) {
    LOCK_DEVICE(camera, handle);
    return unlock(device_info(camera, what, type, value, size));
}

ENTRY DevClose(gc_handle handle) {
    LOCK_DEVICE(camera, handle);
    close_device(camera);
    return unlock(GC_OK);
}

ENTRY DevGetParentIF(gc_handle handle, gc_handle *interface) {
    if (interface == NULL) return fail(GC_INVALID_PARAMETER, "DevGetParentIF: no place for the handle");
    LOCK_DEVICE(camera, handle);
    (void)camera;
    *interface = &interface_port;
    return unlock(GC_OK);
}
