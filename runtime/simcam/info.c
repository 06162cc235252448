/* Handing out values, strings and errors the way GenTL wants them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

static _Thread_local gc_error last_code = GC_OK;
static _Thread_local char last_text[256] = "no error";

gc_error fail(gc_error code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_text, sizeof last_text, format, arguments);
    va_end(arguments);
    last_code = code;
    return code;
}

void last_error(gc_error *code, const char **text) {
    *code = last_code;
    *text = last_text;
}

/* A NULL `value` asks only for the size. */
static gc_error put(const void *source, size_t length, gc_enum kind, gc_enum *type, void *value, size_t *size) {
    if (size == NULL) return fail(GC_INVALID_PARAMETER, "no place given for the size");
    if (type != NULL) *type = kind;
    if (value != NULL) {
        if (*size < length) return fail(GC_BUFFER_TOO_SMALL, "%zu bytes given, %zu needed", *size, length);
        memcpy(value, source, length);
    }
    *size = length;
    return GC_OK;
}

gc_error put_string(const char *text, gc_enum *type, void *value, size_t *size) {
    return put(text, strlen(text) + 1, TYPE_STRING, type, value, size);
}

gc_error put_bool(bool flag, gc_enum *type, void *value, size_t *size) {
    const gc_bool byte = flag;
    return put(&byte, sizeof byte, TYPE_BOOL8, type, value, size);
}

gc_error put_int32(int32_t number, gc_enum *type, void *value, size_t *size) {
    return put(&number, sizeof number, TYPE_INT32, type, value, size);
}

gc_error put_uint32(uint32_t number, gc_enum *type, void *value, size_t *size) {
    return put(&number, sizeof number, TYPE_UINT32, type, value, size);
}

gc_error put_uint64(uint64_t number, gc_enum *type, void *value, size_t *size) {
    return put(&number, sizeof number, TYPE_UINT64, type, value, size);
}

gc_error put_size(size_t number, gc_enum *type, void *value, size_t *size) {
    return put(&number, sizeof number, TYPE_SIZET, type, value, size);
}

gc_error put_pointer(void *pointer, gc_enum *type, void *value, size_t *size) {
    return put(&pointer, sizeof pointer, TYPE_PTR, type, value, size);
}

gc_error unknown_command(const char *function, gc_enum what) {
    return fail(GC_NOT_IMPLEMENTED, "%s does not answer command %d", function, (int)what);
}
