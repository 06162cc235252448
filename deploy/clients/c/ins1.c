/* See ins1.h. */
#if !defined _WIN32 && !defined _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#endif

#include "ins1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#if defined _WIN32
#include <windows.h>
#else
#include <time.h>
#endif

enum {
    RESEND_MS = 1000, /* an answer that has not come by then is asked for again, with the same number */
    PAUSE_MS = 200,
    STEP_MS = 100,
    TRIES = 5,
    PATIENCE_MS = 60000,
    HELD_MS = 50, /* so long a verdict waits for its mask */
    MAX_POSITIONS = 512,
    MAX_DEPTH = 32,
    MAX_ANSWER_BYTES = 1 << 28 /* of one part; a mask is the largest */
};

/* Bytes */

static uint16_t get16(const uint8_t *data) { return (uint16_t)(data[0] | data[1] << 8); }

static uint32_t get32(const uint8_t *data) { return get16(data) | (uint32_t)get16(data + 2) << 16; }

static uint64_t get64(const uint8_t *data) { return get32(data) | (uint64_t)get32(data + 4) << 32; }

static void put64(uint8_t *data, uint64_t value) {
    for (int at = 0; at < 8; at++) data[at] = (uint8_t)(value >> 8 * at);
}

uint32_t ins1_crc32(uint32_t crc, const void *data, size_t size) {
    /* Four bits at a time: fast enough for bodies and runs, and no table to set up in threads. */
    static const uint32_t table[16] = {0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
                                       0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
                                       0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t at = 0; at < size; at++) {
        crc ^= bytes[at];
        crc = table[crc & 15] ^ crc >> 4;
        crc = table[crc & 15] ^ crc >> 4;
    }
    return ~crc;
}

const char *ins1_status_text(ins1_status status) {
    switch (status) {
        case INS1_FINE: return "fine";
        case INS1_BAD_PARTS: return "not three or four parts, or one too long";
        case INS1_BAD_HEADER: return "the header is cut short, has another magic, or a field out of range";
        case INS1_BAD_VERSION: return "another major version";
        case INS1_BAD_TOPIC: return "not a topic of INS1, or of another type than the header's";
        case INS1_BAD_CHECKSUM: return "the checksum does not fit body and payload";
        case INS1_BAD_JSON: return "the body is not a JSON object, or a field is missing";
        case INS1_BAD_MASK: return "the mask does not hold together";
        case INS1_NOT_SUPPORTED: return "an encoding that this client does not read";
    }
    return "unknown";
}

ins1_status ins1_read_header(const void *data, size_t size, ins1_header *header) {
    const uint8_t *at = data;
    if (size < INS1_HEADER_BYTES || memcmp(at, "INS1", 4) != 0) return INS1_BAD_HEADER;
    memcpy(header->magic, at, 4);
    header->ver_major = at[4];
    header->ver_minor = at[5];
    header->msg_type = at[6];
    header->flags = at[7];
    header->epoch = get32(at + 8);
    header->header_bytes = get16(at + 12);
    header->stream = get16(at + 14);
    header->seq = get64(at + 16);
    header->frame_id = get64(at + 24);
    header->t_acq_ns = (int64_t)get64(at + 32);
    header->latency_us = get32(at + 40);
    header->crc32 = get32(at + 44);
    header->verdict = at[48];
    header->state = at[49];
    header->defect_count = get16(at + 50);
    header->worst_class = get16(at + 52);
    header->worst_score_e4 = get16(at + 54);
    header->recipe_no = get32(at + 56);
    header->trigger_id = get32(at + 60);
    if (header->ver_major != 1) return INS1_BAD_VERSION;
    if (header->header_bytes != size) return INS1_BAD_HEADER;
    if (header->verdict > INS1_NOT_INSPECTED || header->worst_score_e4 > 10000) return INS1_BAD_HEADER;
    if (header->state < 1 || header->state > 7 || header->msg_type == 0) return INS1_BAD_HEADER;
    if (header->msg_type > INS1_PREVIEW && header->ver_minor == 0) return INS1_BAD_HEADER;
    return INS1_FINE;
}

ins1_status ins1_read_tcp_header(const void *data, ins1_header *header) {
    static const uint8_t zero[4] = {0, 0, 0, 0};
    const uint8_t *at = data;
    ins1_status status = ins1_read_header(data, INS1_HEADER_BYTES, header);
    if (status != INS1_FINE) return status;
    uint32_t crc = ins1_crc32(0, at, 44);
    crc = ins1_crc32(crc, zero, 4);
    crc = ins1_crc32(crc, at + 48, INS1_HEADER_BYTES - 48);
    return crc == header->crc32 ? INS1_FINE : INS1_BAD_CHECKSUM;
}

/* JSON (RFC 8259). Each skip_ function takes what it is named after from `at`, and gives where it ends, or NULL. */

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

static int hex_digit(char sign) {
    if (sign >= '0' && sign <= '9') return sign - '0';
    if (sign >= 'a' && sign <= 'f') return sign - 'a' + 10;
    if (sign >= 'A' && sign <= 'F') return sign - 'A' + 10;
    return -1;
}

/* Bytes of the UTF-8 character at `at`, 0 where there is none (RFC 3629). */
static size_t utf8_bytes(const char *at, const char *end) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = (uint8_t)*at;
    if (first < 0x80) return 1;
    size_t count = first >= 0xf8 ? 0 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
    if (count == 0 || (size_t)(end - at) < count) return 0;
    uint32_t value = first & (0xffu >> (count + 1));
    for (size_t next = 1; next < count; next++) {
        if (((uint8_t)at[next] & 0xc0) != 0x80) return 0;
        value = value << 6 | ((uint8_t)at[next] & 0x3f);
    }
    return value < least[count] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ? 0 : count;
}

static const char *skip_text(const char *at, const char *end) {
    if (at >= end || *at != '"') return NULL;
    at++;
    while (at < end && *at != '"') {
        if ((uint8_t)*at < 0x20) return NULL;
        if (*at != '\\') {
            size_t count = utf8_bytes(at, end);
            if (count == 0) return NULL;
            at += count;
            continue;
        }
        if (end - at < 2) return NULL;
        if (at[1] == 'u') {
            if (end - at < 6) return NULL;
            for (int digit = 2; digit < 6; digit++)
                if (hex_digit(at[digit]) < 0) return NULL;
            at += 6;
        } else if (at[1] != 0 && strchr("\"\\/bfnrt", at[1]) != NULL) {
            at += 2;
        } else {
            return NULL;
        }
    }
    return at < end ? at + 1 : NULL;
}

static const char *skip_digits(const char *at, const char *end) {
    const char *begin = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at > begin ? at : NULL;
}

static const char *skip_number(const char *at, const char *end) {
    if (at < end && *at == '-') at++;
    if (at < end && *at == '0')
        at++;
    else
        at = skip_digits(at, end);
    if (at != NULL && at < end && *at == '.') at = skip_digits(at + 1, end);
    if (at != NULL && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        at = skip_digits(at, end);
    }
    return at;
}

static const char *skip_word(const char *at, const char *end, const char *word) {
    size_t size = strlen(word);
    return (size_t)(end - at) >= size && memcmp(at, word, size) == 0 ? at + size : NULL;
}

static const char *skip_value(const char *at, const char *end, int depth);

/* A member's name and colon, or nothing in an array. */
static const char *skip_name(const char *at, const char *end, int is_object) {
    at = skip_space(at, end);
    if (!is_object) return at;
    at = skip_text(at, end);
    if (at == NULL) return NULL;
    at = skip_space(at, end);
    return at < end && *at == ':' ? skip_space(at + 1, end) : NULL;
}

static const char *skip_list(const char *at, const char *end, int depth) {
    int is_object = *at == '{';
    char close = is_object ? '}' : ']';
    if (depth >= MAX_DEPTH) return NULL;
    at = skip_space(at + 1, end);
    if (at < end && *at == close) return at + 1;
    for (;;) {
        at = skip_name(at, end, is_object);
        if (at == NULL) return NULL;
        at = skip_value(at, end, depth + 1);
        if (at == NULL) return NULL;
        at = skip_space(at, end);
        if (at >= end) return NULL;
        if (*at == close) return at + 1;
        if (*at != ',') return NULL;
        at++;
    }
}

static const char *skip_value(const char *at, const char *end, int depth) {
    if (at >= end) return NULL;
    switch (*at) {
        case '{':
        case '[': return skip_list(at, end, depth);
        case '"': return skip_text(at, end);
        case 't': return skip_word(at, end, "true");
        case 'f': return skip_word(at, end, "false");
        case 'n': return skip_word(at, end, "null");
        default: return skip_number(at, end);
    }
}

int ins1_json_whole(const char *text, size_t size, ins1_json *value) {
    const char *end = text + size;
    value->at = skip_space(text, end);
    value->end = skip_value(value->at, end, 0);
    return value->end != NULL && skip_space(value->end, end) == end;
}

int ins1_json_member(ins1_json object, const char *name, ins1_json *value) {
    size_t size = strlen(name);
    if (object.at >= object.end || *object.at != '{') return 0;
    const char *at = skip_space(object.at + 1, object.end);
    while (at != NULL && at < object.end && *at == '"') {
        const char *begin = at + 1;
        const char *text_end = skip_text(at, object.end);
        value->at = skip_name(at, object.end, 1);
        if (text_end == NULL || value->at == NULL) return 0;
        value->end = skip_value(value->at, object.end, 0);
        if (value->end == NULL) return 0;
        if ((size_t)(text_end - 1 - begin) == size && memcmp(begin, name, size) == 0) return 1;
        at = skip_space(value->end, object.end);
        at = at < object.end && *at == ',' ? skip_space(at + 1, object.end) : NULL;
    }
    return 0;
}

int ins1_json_next(ins1_json *cursor, ins1_json *item) {
    /* Before the first item the cursor is at '[', after an item at the ',' or ']' that follows it. */
    if (cursor->at >= cursor->end || (*cursor->at != '[' && *cursor->at != ',')) return 0;
    item->at = skip_space(cursor->at + 1, cursor->end);
    if (item->at >= cursor->end || *item->at == ']') return 0;
    item->end = skip_value(item->at, cursor->end, 0);
    if (item->end == NULL) return 0;
    cursor->at = skip_space(item->end, cursor->end);
    return 1;
}

int ins1_json_uint(ins1_json value, uint64_t highest, uint64_t *number) {
    uint64_t found = 0;
    if (value.at >= value.end) return 0;
    for (const char *at = value.at; at < value.end; at++) {
        if (*at < '0' || *at > '9') return 0;
        uint64_t digit = (uint64_t)(*at - '0');
        if (found > (UINT64_MAX - digit) / 10) return 0;
        found = found * 10 + digit;
    }
    if (found > highest) return 0;
    *number = found;
    return 1;
}

int ins1_json_true(ins1_json value) { return value.end - value.at == 4 && memcmp(value.at, "true", 4) == 0; }

static uint32_t escaped(const char *at) {
    uint32_t value = 0;
    for (int digit = 0; digit < 4; digit++) value = value << 4 | (uint32_t)hex_digit(at[digit]);
    return value;
}

int ins1_json_text(ins1_json value, char *text, size_t room) {
    if (value.end - value.at < 2 || *value.at != '"' || room == 0) return 0;
    const char *end = value.end - 1;
    size_t used = 0;
    for (const char *at = value.at + 1; at < end;) {
        uint32_t sign = (uint8_t)*at;
        size_t count = 1;
        if (sign == '\\') {
            static const char named[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
            at++;
            if (*at == 'u') {
                sign = escaped(at + 1);
                at += 5;
                if (sign >= 0xd800 && sign < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
                    uint32_t low = escaped(at + 2);
                    if (low >= 0xdc00 && low < 0xe000) {
                        sign = 0x10000 + ((sign - 0xd800) << 10) + (low - 0xdc00);
                        at += 6;
                    }
                }
                if (sign == 0 || (sign >= 0xd800 && sign < 0xe000)) return 0;
                count = sign < 0x80 ? 1 : sign < 0x800 ? 2 : sign < 0x10000 ? 3 : 4;
            } else {
                for (size_t pair = 0; named[pair] != 0; pair += 2)
                    if (named[pair] == *at) sign = (uint8_t)named[pair + 1];
                at++;
            }
        } else {
            at++;
        }
        if (room - used <= count) return 0;
        if (count == 1) {
            text[used++] = (char)sign;
            continue;
        }
        static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
        for (size_t byte = count; byte-- > 1; sign >>= 6) text[used + byte] = (char)(0x80 | (sign & 0x3f));
        text[used] = (char)(lead[count] | sign);
        used += count;
    }
    text[used] = 0;
    return 1;
}

static int number_of(ins1_json object, const char *name, uint64_t highest, uint64_t *number) {
    ins1_json value;
    return ins1_json_member(object, name, &value) && ins1_json_uint(value, highest, number);
}

/* Messages */

static const char *const KINDS[] = {NULL,         "verdict/", "mask/",  "hb/",
                                    "stats/", "state/",   "alarm/", "preview/"};

static int is_of_camera(uint8_t msg_type) {
    return msg_type == INS1_VERDICT || msg_type == INS1_MASK || msg_type == INS1_PREVIEW;
}

static int is_camera_sign(char sign, int is_first) {
    if ((sign >= 'A' && sign <= 'Z') || (sign >= 'a' && sign <= 'z') || (sign >= '0' && sign <= '9')) return 1;
    return sign == '_' || sign == '-' || (sign == '.' && !is_first);
}

static ins1_status read_topic(const char *topic, size_t size, uint8_t msg_type, char *camera) {
    camera[0] = 0;
    if (size < 6 || size > INS1_MAX_TOPIC_BYTES || memcmp(topic, "ins1/", 5) != 0 || topic[size - 1] != '/')
        return INS1_BAD_TOPIC;
    for (size_t at = 0; at < size; at++)
        if ((uint8_t)topic[at] > 127) return INS1_BAD_TOPIC;
    if (msg_type > INS1_PREVIEW) return INS1_FINE; /* of a later minor version; to be passed over */
    size_t kind = strlen(KINDS[msg_type]);
    if (size < 5 + kind || memcmp(topic + 5, KINDS[msg_type], kind) != 0) return INS1_BAD_TOPIC;
    size_t left = size - 5 - kind;
    if (!is_of_camera(msg_type)) return left == 0 ? INS1_FINE : INS1_BAD_TOPIC;
    if (left < 2 || left > INS1_CAMERA_ROOM) return INS1_BAD_TOPIC;
    for (size_t at = 0; at < left - 1; at++) {
        camera[at] = topic[5 + kind + at];
        if (!is_camera_sign(camera[at], at == 0)) return INS1_BAD_TOPIC;
    }
    camera[left - 1] = 0;
    return INS1_FINE;
}

/* What this client looks at in the bodies; the rest of a body only has to be JSON. */
static int has_its_fields(const ins1_message *message) {
    ins1_json value, item;
    uint64_t number;
    if (message->header.msg_type == INS1_VERDICT)
        return number_of(message->body, "resultState", 4, &number) &&
               ins1_json_member(message->body, "defects", &value) && *value.at == '[';
    if (message->header.msg_type != INS1_HEARTBEAT) return 1;
    if (!ins1_json_member(message->body, "streams", &value) || *value.at != '[') return 0;
    while (ins1_json_next(&value, &item))
        if (!number_of(item, "stream", 0xffff, &number) || !number_of(item, "last", UINT64_MAX, &number)) return 0;
    return 1;
}

ins1_status ins1_read_message(const ins1_part *parts, size_t count, ins1_message *message) {
    if (count < 3 || count > 4) return INS1_BAD_PARTS;
    message->payload = count == 4 ? parts[3].data : NULL;
    message->payload_size = count == 4 ? parts[3].size : 0;
    if (parts[2].size > INS1_MAX_BODY_BYTES || message->payload_size > INS1_MAX_PAYLOAD_BYTES) return INS1_BAD_PARTS;
    ins1_status status = ins1_read_header(parts[1].data, parts[1].size, &message->header);
    if (status != INS1_FINE) return status;
    status = read_topic(parts[0].data, parts[0].size, message->header.msg_type, message->camera);
    if (status != INS1_FINE) return status;
    uint32_t crc = ins1_crc32(0, parts[2].data, parts[2].size);
    if (message->payload_size > 0) crc = ins1_crc32(crc, message->payload, message->payload_size);
    if (crc != message->header.crc32) return INS1_BAD_CHECKSUM;
    if (!ins1_json_whole(parts[2].data, parts[2].size, &message->body) || *message->body.at != '{')
        return INS1_BAD_JSON;
    return has_its_fields(message) ? INS1_FINE : INS1_BAD_JSON;
}

ins1_status ins1_read_mask(const ins1_message *message, ins1_mask *mask) {
    uint64_t width, height, sum = 0;
    ins1_json value, item;
    char encoding[16];
    if (message->header.msg_type != INS1_MASK) return INS1_BAD_MASK;
    if (!number_of(message->body, "width", INS1_MAX_PIXELS, &width) || width == 0) return INS1_BAD_MASK;
    if (!number_of(message->body, "height", INS1_MAX_PIXELS, &height) || height == 0) return INS1_BAD_MASK;
    if (width * height > INS1_MAX_PIXELS) return INS1_BAD_MASK;
    if (!ins1_json_member(message->body, "encoding", &value) || !ins1_json_text(value, encoding, sizeof encoding))
        return INS1_BAD_MASK;
    if (strcmp(encoding, "rle8") != 0) return INS1_NOT_SUPPORTED;
    if (!ins1_json_member(message->body, "classes", &value) || *value.at != '[') return INS1_BAD_MASK;
    uint32_t classes = 0;
    while (ins1_json_next(&value, &item)) classes++;
    size_t runs = message->payload_size / 5;
    if (runs == 0 || message->payload_size % 5 != 0) return INS1_BAD_MASK;
    for (size_t run = 0; run < runs; run++) {
        uint32_t length = get32(message->payload + 4 * run);
        /* At most 2^28 / 5 runs of less than 2^32 each: the sum cannot overflow. */
        sum += length;
        if (length == 0 || message->payload[4 * runs + run] > classes) return INS1_BAD_MASK;
    }
    if (sum != width * height) return INS1_BAD_MASK;
    mask->width = (uint32_t)width;
    mask->height = (uint32_t)height;
    mask->class_count = classes;
    return INS1_FINE;
}

ins1_status ins1_read_labels(const ins1_message *message, uint8_t *labels, size_t room) {
    ins1_mask mask;
    ins1_status status = ins1_read_mask(message, &mask);
    if (status != INS1_FINE) return status;
    if (room < (size_t)mask.width * mask.height) return INS1_BAD_MASK;
    size_t runs = message->payload_size / 5;
    for (size_t run = 0; run < runs; run++) {
        uint32_t length = get32(message->payload + 4 * run);
        memset(labels, message->payload[4 * runs + run], length);
        labels += length;
    }
    return INS1_FINE;
}

/* Time */

uint64_t ins1_now_ms(void) {
#if defined _WIN32
    return GetTickCount64();
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
#endif
}

static uint64_t utc_ms(void) {
#if defined _WIN32
    FILETIME now;
    GetSystemTimeAsFileTime(&now);
    return (((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime) - 116444736000000000u) / 10000;
#else
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
#endif
}

static void pause_ms(long milliseconds) { zmq_poll(NULL, 0, milliseconds); }

/* Following a station */

typedef struct raw {
    zmq_msg_t parts[4];
    size_t count;
    ins1_message message; /* of the parts, where they could be read */
} raw;

static const uint64_t IGNORED = UINT64_MAX - 1; /* the position of a stream that is not followed */

typedef struct position {
    uint32_t epoch;
    uint16_t stream;
    uint64_t done;
} position;

struct ins1_client {
    ins1_options options;
    void *context;
    void *results;
    void *control;
    uint64_t next_id;
    int begun; /* whether the first snapshot was asked for */
    int known; /* whether `epoch` is */
    uint32_t epoch;
    uint32_t first_epoch;
    int older_asked;
    uint32_t older;
    position positions[MAX_POSITIONS];
    size_t position_count;
    raw current;
    raw held; /* a verdict that waits for its mask */
    int holds;
    uint64_t held_ms;
    zmq_msg_t answer; /* the JSON of the latest answer */
    ins1_json result;
    int more; /* whether parts of the answer are still to be read */
    char reason[256];
};

static void raw_init(raw *message) {
    for (int part = 0; part < 4; part++) zmq_msg_init(&message->parts[part]);
    message->count = 0;
}

static void raw_close(raw *message) {
    for (int part = 0; part < 4; part++) zmq_msg_close(&message->parts[part]);
}

static ins1_status raw_read(raw *message) {
    ins1_part parts[4];
    for (size_t part = 0; part < message->count && part < 4; part++) {
        parts[part].data = zmq_msg_data(&message->parts[part]);
        parts[part].size = zmq_msg_size(&message->parts[part]);
    }
    return ins1_read_message(parts, message->count, &message->message);
}

/* Short parts lie in the zmq_msg_t itself: what points into them has to be read again. */
static void raw_move(raw *to, raw *from) {
    for (int part = 0; part < 4; part++) zmq_msg_move(&to->parts[part], &from->parts[part]);
    to->count = from->count;
    from->count = 0;
    raw_read(to);
}

static void drain(void *socket, zmq_msg_t *scratch) {
    while (zmq_msg_more(scratch) && zmq_msg_recv(scratch, socket, ZMQ_DONTWAIT) >= 0) {
    }
}

/* 1: a message of up to four parts; a fifth makes the count 5. */
static int raw_receive(raw *message, void *socket) {
    message->count = 0;
    do {
        zmq_msg_t *part = &message->parts[message->count < 4 ? message->count : 3];
        if (zmq_msg_recv(part, socket, ZMQ_DONTWAIT) < 0) return 0;
        message->count++;
        if (message->count == 5) {
            drain(socket, part);
            return 1;
        }
        if (!zmq_msg_more(part)) return 1;
    } while (1);
}

static position *find(ins1_client *client, uint32_t epoch, uint16_t stream) {
    for (size_t at = 0; at < client->position_count; at++)
        if (client->positions[at].epoch == epoch && client->positions[at].stream == stream)
            return &client->positions[at];
    return NULL;
}

static uint64_t done(ins1_client *client, uint32_t epoch, uint16_t stream) {
    position *found = find(client, epoch, stream);
    return found == NULL ? 0 : found->done;
}

static void set_done(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t seq) {
    position *found = find(client, epoch, stream);
    if (found == NULL && client->position_count < MAX_POSITIONS) {
        found = &client->positions[client->position_count++];
    } else if (found == NULL) {
        found = &client->positions[0];
        for (size_t at = 1; at < MAX_POSITIONS; at++)
            if (client->positions[at].epoch < found->epoch) found = &client->positions[at];
    }
    found->epoch = epoch;
    found->stream = stream;
    found->done = seq;
}

static int takes(const ins1_client *client, const char *kind, const char *camera) {
    char topic[INS1_MAX_TOPIC_BYTES + 1];
    const char *const *topics = client->options.topics;
    if (topics[0] == NULL) return 1;
    snprintf(topic, sizeof topic, "ins1/%s/%s%s", kind, camera, camera[0] != 0 ? "/" : "");
    for (int at = 0; at < 8 && topics[at] != NULL; at++)
        if (strncmp(topic, topics[at], strlen(topics[at])) == 0) return 1;
    return 0;
}

/* Whether all that counts in a stream is subscribed to; its camera is "" where it is the station's. */
static int follows(const ins1_client *client, uint16_t stream, const char *camera) {
    if (stream == INS1_STATION_STREAM) return takes(client, "state", "") && takes(client, "alarm", "");
    return takes(client, "verdict", camera);
}

/* The same of an entry of `streams`. Those of past epochs have no names: there the position tells what was seen. */
static int follows_entry(ins1_client *client, uint32_t epoch, uint16_t stream, ins1_json entry) {
    char camera[INS1_CAMERA_ROOM] = "";
    ins1_json value;
    if (stream != INS1_STATION_STREAM &&
        (!ins1_json_member(entry, "camera", &value) || !ins1_json_text(value, camera, sizeof camera)))
        return done(client, epoch, stream) != IGNORED;
    if (follows(client, stream, camera)) return 1;
    set_done(client, epoch, stream, IGNORED);
    return 0;
}

static void tell(ins1_client *client, ins1_event *event) { client->options.handler(client->options.user, event); }

static void tell_lost(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t first, uint64_t last,
                      const char *reason) {
    ins1_event event = {INS1_EVENT_LOST, NULL, NULL, epoch, stream, first, last, reason};
    if (last != 0) set_done(client, epoch, stream, last);
    tell(client, &event);
}

static void tell_started(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t last) {
    ins1_event event = {INS1_EVENT_STARTED, NULL, NULL, epoch, stream, last + 1, 0, ""};
    set_done(client, epoch, stream, last);
    tell(client, &event);
}

static void tell_result(ins1_client *client, const ins1_message *message, const ins1_message *mask) {
    const ins1_header *header = &message->header;
    ins1_event event = {header->msg_type == INS1_VERDICT ? INS1_EVENT_RESULT : INS1_EVENT_CHANGED,
                        message, mask, header->epoch, header->stream, header->seq, header->seq, ""};
    set_done(client, header->epoch, header->stream, header->seq);
    tell(client, &event);
}

/* Control: 1 answered, 0 not in time, -1 refused, with the reason. After 1 the blobs are still to be read. */

static void end_answer(ins1_client *client) {
    zmq_msg_t part;
    if (!client->more) return;
    zmq_msg_init(&part);
    while (client->more && zmq_msg_recv(&part, client->control, ZMQ_DONTWAIT) >= 0) client->more = zmq_msg_more(&part);
    zmq_msg_close(&part);
    client->more = 0;
}

static int read_answer(ins1_client *client, uint64_t number, char *code, size_t room) {
    zmq_msg_t part;
    ins1_json whole, value;
    int outcome = 0;
    end_answer(client);
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, client->control, ZMQ_DONTWAIT) >= 0) {
        int is_ours = zmq_msg_size(&part) == 8 && get64(zmq_msg_data(&part)) == number;
        if (zmq_msg_more(&part) && zmq_msg_recv(&client->answer, client->control, ZMQ_DONTWAIT) >= 0) {
            client->more = zmq_msg_more(&client->answer);
            if (is_ours && ins1_json_whole(zmq_msg_data(&client->answer), zmq_msg_size(&client->answer), &whole) &&
                ins1_json_member(whole, "ok", &value)) {
                if (ins1_json_true(value) && ins1_json_member(whole, "result", &client->result))
                    outcome = 1;
                else if (ins1_json_member(whole, "error", &whole) && ins1_json_member(whole, "code", &value) &&
                         ins1_json_text(value, code, room))
                    outcome = -1;
            }
        }
    }
    zmq_msg_close(&part);
    if (outcome != 1) end_answer(client);
    return outcome;
}

static int stopped(const ins1_client *client) {
    return client->options.stopped != NULL && client->options.stopped(client->options.user);
}

static int ask(ins1_client *client, const char *request, uint64_t give_up_ms) {
    uint8_t number[8];
    char code[64];
    uint64_t id = client->next_id++;
    put64(number, id);
    for (uint64_t now = ins1_now_ms(); now < give_up_ms; now = ins1_now_ms()) {
        uint64_t resend_ms = now + RESEND_MS < give_up_ms ? now + RESEND_MS : give_up_ms;
        /* Nobody is there yet, or is busy: asked again later. */
        if (zmq_send(client->control, number, 8, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
            zmq_send(client->control, request, strlen(request), ZMQ_DONTWAIT);
        while ((now = ins1_now_ms()) < resend_ms) {
            zmq_pollitem_t item = {client->control, 0, ZMQ_POLLIN, 0};
            if (stopped(client)) return 0;
            zmq_poll(&item, 1, resend_ms - now < STEP_MS ? (long)(resend_ms - now) : STEP_MS);
            if (!(item.revents & ZMQ_POLLIN)) continue;
            int outcome = read_answer(client, id, code, sizeof code);
            if (outcome < 0) snprintf(client->reason, sizeof client->reason, "the station says: %s", code);
            if (outcome != 0) return outcome;
        }
    }
    snprintf(client->reason, sizeof client->reason, "control does not answer");
    return 0;
}

static uint64_t give_up(const ins1_client *client) { return ins1_now_ms() + (uint64_t)client->options.patience_ms; }

/* The same, and once more after a pause where the station says that it cannot just now. */
static int ask_patiently(ins1_client *client, const char *request, uint64_t give_up_ms) {
    for (int tries = 0;; tries++) {
        int outcome = ask(client, request, give_up_ms);
        int may_pass = strstr(client->reason, "busy") != NULL || strstr(client->reason, "failed") != NULL;
        if (outcome >= 0 || !may_pass || tries >= TRIES) return outcome;
        pause_ms(PAUSE_MS);
    }
}

static void release(ins1_client *client, const ins1_message *mask);

/* One message of a replay: 1 taken or passed over, 0 it is damaged. */
static int give(ins1_client *client, raw *message, uint32_t epoch, uint16_t stream, uint64_t last) {
    const ins1_header *header = &message->message.header;
    if (raw_read(message) != INS1_FINE || header->epoch != epoch || header->stream != stream) return 0;
    if (header->msg_type == INS1_MASK) {
        if (client->holds && client->held.message.header.seq == header->seq) release(client, &message->message);
        return 1;
    }
    if (client->holds) release(client, NULL);
    uint64_t next = done(client, epoch, stream) + 1;
    if (header->msg_type != INS1_VERDICT && header->msg_type != INS1_STATE && header->msg_type != INS1_ALARM) return 1;
    if (header->seq < next || header->seq > last) return 1;
    if (header->seq > next) tell_lost(client, epoch, stream, next, header->seq - 1, "not in the journal");
    if (!follows(client, stream, message->message.camera)) {
        set_done(client, epoch, stream, header->seq);
        return 1;
    }
    if (header->msg_type == INS1_VERDICT && client->options.masks && header->verdict != INS1_NOT_INSPECTED) {
        raw_move(&client->held, message);
        client->holds = 1;
    } else {
        tell_result(client, &message->message, NULL);
    }
    return 1;
}

/* The blobs of a replay, four for each message; 0 where one is damaged or missing. */
static int give_all(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t last, uint64_t count) {
    raw message;
    int whole = 1;
    raw_init(&message);
    for (uint64_t number = 0; number < count && whole; number++) {
        for (message.count = 0; message.count < 4; message.count++) {
            if (!client->more || zmq_msg_recv(&message.parts[message.count], client->control, ZMQ_DONTWAIT) < 0) break;
            client->more = zmq_msg_more(&message.parts[message.count]);
        }
        whole = message.count == 4 && give(client, &message, epoch, stream, last);
    }
    if (client->holds) release(client, NULL);
    raw_close(&message);
    if (client->more) whole = 0;
    end_answer(client);
    return whole;
}

/* Rules 4 and 5: fetch what comes after what is there, up to `last`; what cannot be had is lost. */
static void recover(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t last) {
    char request[256];
    uint64_t give_up_ms = give_up(client), first, span = INS1_MAX_REPLAY;
    int tries = 0;
    while ((first = done(client, epoch, stream) + 1) <= last) {
        uint64_t to = last - first < span ? last : first + span - 1;
        uint64_t given, oldest, newest, count;
        if (client->control == NULL) {
            tell_lost(client, epoch, stream, first, last, "there is no control to ask");
            return;
        }
        snprintf(request, sizeof request,
                 "{\"op\":\"replay\",\"args\":{\"stream\":%u,\"from\":%llu,\"to\":%llu,\"epoch\":%lu,\"masks\":%s}}",
                 (unsigned)stream, (unsigned long long)first, (unsigned long long)to, (unsigned long)epoch,
                 client->options.masks ? "true" : "false");
        if (ask_patiently(client, request, give_up_ms) <= 0) {
            if (stopped(client)) return; /* nothing is lost: it was not asked to the end */
            tell_lost(client, epoch, stream, first, last, client->reason);
            return;
        }
        if (!number_of(client->result, "to", UINT64_MAX, &given) || given > to ||
            !number_of(client->result, "oldest", UINT64_MAX, &oldest) ||
            !number_of(client->result, "newest", UINT64_MAX, &newest) ||
            !number_of(client->result, "messages", 4 * INS1_MAX_REPLAY, &count)) {
            end_answer(client);
            tell_lost(client, epoch, stream, first, last, "the answer to a replay is none");
            return;
        }
        int whole = give_all(client, epoch, stream, to, count);
        uint64_t reached = done(client, epoch, stream);
        if (!whole) {
            /* What is damaged in the journal stays so; the next one is asked for by itself. */
            if (reached < first && span == 1) tell_lost(client, epoch, stream, first, first, "damaged in the journal");
            span = 1;
            continue;
        }
        span = INS1_MAX_REPLAY;
        if (reached < given) {
            tell_lost(client, epoch, stream, reached + 1, given, "not in the journal");
            reached = given;
        }
        if (reached >= first) {
            tries = 0;
        } else if (newest < first && tries++ < TRIES) {
            pause_ms(PAUSE_MS); /* it was sent before it got to the disk: it may be there soon */
        } else {
            uint64_t end = last;
            if (newest >= first) end = oldest > to ? (oldest - 1 < last ? oldest - 1 : last) : to;
            tell_lost(client, epoch, stream, first, end, "not in the journal");
        }
    }
}

/* Give out the verdict that waits for its mask; one that did not come is fetched. */
static void release(ins1_client *client, const ins1_message *mask) {
    if (!client->holds) return;
    client->holds = 0;
    tell_result(client, &client->held.message, mask);
}

static void fetch_mask(ins1_client *client) {
    char request[256];
    ins1_header header;
    if (!client->holds) return;
    header = client->held.message.header;
    if (client->control != NULL) {
        snprintf(request, sizeof request,
                 "{\"op\":\"replay\",\"args\":{\"stream\":%u,\"from\":%llu,\"to\":%llu,\"epoch\":%lu,\"masks\":true}}",
                 (unsigned)header.stream, (unsigned long long)header.seq, (unsigned long long)header.seq,
                 (unsigned long)header.epoch);
        /* As long as a gap is asked for: a station that was killed between a verdict and its mask starts again. */
        if (ask_patiently(client, request, give_up(client)) == 1) {
            raw verdict, mask;
            raw *const both[2] = {&verdict, &mask};
            int whole = 1;
            raw_init(&verdict);
            raw_init(&mask);
            for (int which = 0; which < 2 && whole; which++) {
                for (both[which]->count = 0; both[which]->count < 4 && client->more; both[which]->count++) {
                    zmq_msg_t *part = &both[which]->parts[both[which]->count];
                    if (zmq_msg_recv(part, client->control, ZMQ_DONTWAIT) < 0) break;
                    client->more = zmq_msg_more(part);
                }
                whole = both[which]->count == 4 && raw_read(both[which]) == INS1_FINE &&
                        both[which]->message.header.epoch == header.epoch &&
                        both[which]->message.header.stream == header.stream &&
                        both[which]->message.header.seq == header.seq;
            }
            if (whole && mask.message.header.msg_type == INS1_MASK) release(client, &mask.message);
            raw_close(&verdict);
            raw_close(&mask);
            end_answer(client);
        }
    }
    release(client, NULL); /* the verdict is what counts */
}

/* Streams of an epoch in a snapshot or its list of epochs. */
static void recover_streams(ins1_client *client, uint32_t epoch, ins1_json object) {
    ins1_json cursor, item;
    uint64_t stream, last;
    if (!ins1_json_member(object, "streams", &cursor)) return;
    while (ins1_json_next(&cursor, &item))
        if (number_of(item, "stream", 0xffff, &stream) && number_of(item, "last", UINT64_MAX, &last) &&
            follows_entry(client, epoch, (uint16_t)stream, item))
            recover(client, epoch, (uint16_t)stream, last);
}

/* The lowest epoch from `least` on in the list of epochs. */
static int next_epoch(ins1_json epochs, uint32_t least, uint32_t *epoch, ins1_json *object) {
    ins1_json item;
    uint64_t number;
    int found = 0;
    while (ins1_json_next(&epochs, &item)) {
        if (!number_of(item, "epoch", UINT32_MAX, &number) || number < least || (found && number >= *epoch)) continue;
        *epoch = (uint32_t)number;
        *object = item;
        found = 1;
    }
    return found;
}

static void lose_epoch(ins1_client *client, uint32_t epoch, const char *reason) {
    for (size_t at = 0; at < client->position_count; at++)
        if (client->positions[at].epoch == epoch && client->positions[at].done != IGNORED)
            tell_lost(client, epoch, client->positions[at].stream, client->positions[at].done + 1, 0, reason);
}

/* Rule 6: what is left of the epochs before. */
static void leave_epochs(ins1_client *client, uint32_t epoch, ins1_json epochs) {
    ins1_json object;
    uint32_t next = 0, from = client->epoch, expected = client->epoch;
    while (from < epoch && next_epoch(epochs, from, &next, &object) && next < epoch) {
        if (next > expected && expected == client->epoch) lose_epoch(client, client->epoch, "no longer held");
        if (next > expected && expected != client->epoch)
            tell_lost(client, expected, INS1_STATION_STREAM, 1, 0, "this start is not held");
        recover_streams(client, next, object);
        from = expected = next + 1;
    }
    if (expected == client->epoch) {
        lose_epoch(client, client->epoch, "no longer held");
        expected++;
    }
    if (expected < epoch) tell_lost(client, expected, INS1_STATION_STREAM, 1, 0, "this start is not held");
    client->epoch = epoch;
}

static int read_snapshot(ins1_client *client, zmq_msg_t *kept, uint32_t heard, uint32_t *epoch, ins1_json *snapshot) {
    uint64_t give_up_ms = give_up(client), number;
    ins1_json whole;
    while (ins1_now_ms() < give_up_ms) {
        int outcome = ask(client, "{\"op\":\"snapshot\",\"args\":{}}", give_up_ms);
        if (outcome == 1) {
            end_answer(client);
            /* One that the station of before had answered would say nothing of the new one. */
            if (number_of(client->result, "epoch", UINT32_MAX, &number) && number >= heard) {
                zmq_msg_move(kept, &client->answer);
                if (!ins1_json_whole(zmq_msg_data(kept), zmq_msg_size(kept), &whole)) return 0;
                *epoch = (uint32_t)number;
                return ins1_json_member(whole, "result", snapshot);
            }
        }
        if (outcome == 0) return 0;
        pause_ms(PAUSE_MS);
    }
    return 0;
}

/* Rules 2 and 6: a snapshot, what is left of the epochs before, and then the present one. */
static int catch_up(ins1_client *client, uint32_t heard) {
    static const ins1_json nothing = {NULL, NULL};
    zmq_msg_t kept;
    ins1_json snapshot, epochs = nothing, cursor, item;
    uint64_t stream, last;
    uint32_t epoch;
    int outcome = 0;
    zmq_msg_init(&kept);
    if (client->control == NULL || !read_snapshot(client, &kept, heard, &epoch, &snapshot)) {
        if (stopped(client)) {
            outcome = client->known ? 0 : -1;
        } else if (heard != 0 && (client->control == NULL || client->known)) {
            if (client->known && heard > client->epoch) leave_epochs(client, heard, nothing);
            if (!client->known) client->first_epoch = heard;
            client->epoch = heard;
            client->known = 1;
        } else if (!client->known) {
            outcome = -1;
        }
        zmq_msg_close(&kept);
        return outcome;
    }
    ins1_json_member(snapshot, "epochs", &epochs);
    if (client->known && epoch < client->epoch) {
        lose_epoch(client, client->epoch, "the station has lost count of its starts");
        client->known = 0;
        client->position_count = 0;
    }
    if (!client->known) {
        client->known = 1;
        client->epoch = client->first_epoch = epoch;
        if (ins1_json_member(snapshot, "streams", &cursor))
            while (ins1_json_next(&cursor, &item))
                if (number_of(item, "stream", 0xffff, &stream) && number_of(item, "last", UINT64_MAX, &last) &&
                    follows_entry(client, epoch, (uint16_t)stream, item))
                    tell_started(client, epoch, (uint16_t)stream, last);
    } else {
        if (epoch > client->epoch) leave_epochs(client, epoch, epochs);
        recover_streams(client, epoch, snapshot);
    }
    zmq_msg_close(&kept);
    return 0;
}

/* Without control a stream begins where it is first seen, in the first epoch that is seen. */
static void begin_at(ins1_client *client, uint32_t epoch, uint16_t stream, uint64_t last) {
    if (client->control == NULL && epoch == client->first_epoch && find(client, epoch, stream) == NULL)
        tell_started(client, epoch, stream, last);
}

static void compare(ins1_client *client, const ins1_message *message) {
    ins1_json cursor, item;
    uint64_t stream, last;
    uint32_t epoch = message->header.epoch;
    if (epoch != client->epoch || !ins1_json_member(message->body, "streams", &cursor)) return;
    while (ins1_json_next(&cursor, &item)) {
        if (!number_of(item, "stream", 0xffff, &stream) || !number_of(item, "last", UINT64_MAX, &last)) continue;
        if (!follows_entry(client, epoch, (uint16_t)stream, item)) continue;
        begin_at(client, epoch, (uint16_t)stream, last);
        recover(client, epoch, (uint16_t)stream, last);
    }
}

static int take(ins1_client *client) {
    ins1_message *message = &client->current.message;
    const ins1_header *header = &message->header;
    ins1_status status = raw_read(&client->current);
    if (status != INS1_FINE) {
        ins1_event event = {INS1_EVENT_SPOILED, NULL, NULL, 0, 0, 0, 0, ins1_status_text(status)};
        tell(client, &event);
        return 0;
    }
    if (client->options.heard != NULL) client->options.heard(client->options.user, message);
    if (header->flags & INS1_REPLAYED) return 0; /* nobody publishes such */
    if (header->msg_type == INS1_MASK) {
        const ins1_header *held = &client->held.message.header;
        if (client->holds && held->epoch == header->epoch && held->stream == header->stream && held->seq == header->seq)
            release(client, message);
        return 0;
    }
    fetch_mask(client);
    if (header->msg_type != INS1_VERDICT && header->msg_type != INS1_STATE && header->msg_type != INS1_ALARM &&
        header->msg_type != INS1_HEARTBEAT)
        return 0;
    if (!client->known || header->epoch > client->epoch) {
        if (catch_up(client, header->epoch) < 0) return -1;
    } else if (header->epoch < client->epoch && client->control != NULL &&
               (!client->older_asked || client->older != header->epoch)) {
        /* What was still on its way from before a start; or the station has lost count and begins anew. */
        client->older_asked = 1;
        client->older = header->epoch;
        if (catch_up(client, 0) < 0) return -1;
    }
    if (header->msg_type == INS1_HEARTBEAT) {
        compare(client, message);
        return 0;
    }
    begin_at(client, header->epoch, header->stream, header->seq - 1);
    if (header->seq <= done(client, header->epoch, header->stream)) return 0;
    if (header->seq > 1) recover(client, header->epoch, header->stream, header->seq - 1);
    if (header->seq != done(client, header->epoch, header->stream) + 1) return 0; /* stopped meanwhile */
    if (header->msg_type == INS1_VERDICT && client->options.masks && header->verdict != INS1_NOT_INSPECTED) {
        raw_move(&client->held, &client->current);
        client->holds = 1;
        client->held_ms = ins1_now_ms();
    } else {
        tell_result(client, message, NULL);
    }
    return 0;
}

static int set(void *socket, int option, int value) { return zmq_setsockopt(socket, option, &value, sizeof value); }

static int set_text(void *socket, int option, const char *text) {
    return zmq_setsockopt(socket, option, text, strlen(text) + 1);
}

static void *connect_to(ins1_client *client, int kind, const char *address) {
    const ins1_options *options = &client->options;
    void *socket = zmq_socket(client->context, kind);
    int64_t largest = MAX_ANSWER_BYTES;
    int failed;
    if (socket == NULL) return NULL;
    failed = set(socket, ZMQ_LINGER, 0) != 0;
    /* Without these a client stays deaf after its network was away for a second. */
    failed |= set(socket, ZMQ_HEARTBEAT_IVL, 500) != 0;
    failed |= set(socket, ZMQ_HEARTBEAT_TIMEOUT, 1500) != 0;
    failed |= set(socket, ZMQ_RECONNECT_IVL_MAX, 1000) != 0;
    /* Where a full queue stops the reading, libzmq up to 4.3.5 ends the whole process once the connection is made
     * anew (its issue 3937): the queue has no bound here, and ins1_poll empties it. */
    failed |= set(socket, ZMQ_RCVHWM, 0) != 0;
    failed |= set(socket, ZMQ_IPV6, strchr(address, '[') != NULL) != 0;
    failed |= zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) != 0;
    /* Nothing is kept for a station that is away: it is asked again. */
    if (kind == ZMQ_DEALER) failed |= set(socket, ZMQ_IMMEDIATE, 1) != 0;
    if (options->server_key != NULL && options->public_key != NULL && options->secret_key != NULL) {
        failed |= set_text(socket, ZMQ_CURVE_SERVERKEY, options->server_key) != 0;
        failed |= set_text(socket, ZMQ_CURVE_PUBLICKEY, options->public_key) != 0;
        failed |= set_text(socket, ZMQ_CURVE_SECRETKEY, options->secret_key) != 0;
    }
    if (failed || zmq_connect(socket, address) != 0) {
        zmq_close(socket);
        return NULL;
    }
    return socket;
}

static int subscribe(ins1_client *client) {
    static const char *const all[] = {"ins1/verdict/", "ins1/state/", "ins1/alarm/", NULL};
    const char *const *topics = client->options.topics[0] != NULL ? client->options.topics : all;
    int failed = zmq_setsockopt(client->results, ZMQ_SUBSCRIBE, "ins1/hb/", 8) != 0;
    for (int at = 0; at < 8 && topics[at] != NULL; at++)
        failed |= zmq_setsockopt(client->results, ZMQ_SUBSCRIBE, topics[at], strlen(topics[at])) != 0;
    if (client->options.masks && topics == all)
        failed |= zmq_setsockopt(client->results, ZMQ_SUBSCRIBE, "ins1/mask/", 10) != 0;
    return !failed;
}

ins1_client *ins1_open(const ins1_options *options, char *error, size_t room) {
    int keys = (options->server_key != NULL) + (options->public_key != NULL) + (options->secret_key != NULL);
    if (options->publish == NULL || options->handler == NULL || (keys != 0 && keys != 3)) {
        snprintf(error, room, "expected an address, a handler, and no key or all three");
        return NULL;
    }
    ins1_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        snprintf(error, room, "no memory for %zu bytes", sizeof *client);
        return NULL;
    }
    client->options = *options;
    if (client->options.patience_ms <= 0) client->options.patience_ms = PATIENCE_MS;
    client->next_id = utc_ms(); /* above those of before */
    raw_init(&client->current);
    raw_init(&client->held);
    zmq_msg_init(&client->answer);
    client->context = zmq_ctx_new();
    if (client->context != NULL) client->results = connect_to(client, ZMQ_SUB, options->publish);
    if (client->results != NULL && options->control != NULL)
        client->control = connect_to(client, ZMQ_DEALER, options->control);
    if (client->results == NULL || (options->control != NULL && client->control == NULL) || !subscribe(client)) {
        snprintf(error, room, "%s and %s: cannot be connected to (%s); expected addresses such as tcp://10.0.0.5:5560",
                 options->publish, options->control != NULL ? options->control : "no control",
                 zmq_strerror(zmq_errno()));
        ins1_close(client);
        return NULL;
    }
    return client;
}

int ins1_poll(ins1_client *client, int timeout_ms) {
    zmq_pollitem_t item = {client->results, 0, ZMQ_POLLIN, 0};
    int handled = 0;
    if (client->control != NULL && !client->begun) {
        if (catch_up(client, 0) < 0) return -1;
        client->begun = 1;
    }
    /* A verdict whose mask has not come at once is not kept for long. */
    zmq_poll(&item, 1, client->holds && timeout_ms > HELD_MS ? HELD_MS : timeout_ms);
    while (handled < 1000 && raw_receive(&client->current, client->results)) {
        if (take(client) < 0) return -1;
        handled++;
    }
    if (client->holds && ins1_now_ms() - client->held_ms >= HELD_MS) fetch_mask(client);
    return handled;
}

void ins1_close(ins1_client *client) {
    if (client == NULL) return;
    raw_close(&client->current);
    raw_close(&client->held);
    zmq_msg_close(&client->answer);
    if (client->results != NULL) zmq_close(client->results);
    if (client->control != NULL) zmq_close(client->control);
    if (client->context != NULL) zmq_ctx_term(client->context);
    free(client);
}

/* The gate */

void ins1_gate_init(ins1_gate *gate, const char *camera, uint32_t period_ms) {
    memset(gate, 0, sizeof *gate);
    snprintf(gate->camera, sizeof gate->camera, "%s", camera);
    gate->oldest_ms = 3u * (uint64_t)period_ms;
    gate->decided = INS1_REJECT;
}

void ins1_gate_begin(ins1_gate *gate, uint32_t trigger_id, uint32_t deadline_ms, uint64_t now_ms) {
    gate->trigger_id = trigger_id;
    gate->begun_ms = now_ms;
    gate->deadline_ms = deadline_ms;
    gate->pending = 1;
    gate->decided = INS1_WAIT;
}

void ins1_gate_feed(ins1_gate *gate, const ins1_message *message, uint64_t now_ms) {
    const ins1_header *header = &message->header;
    if (header->msg_type == INS1_HEARTBEAT) {
        gate->heard = 1;
        gate->heartbeat_ms = now_ms;
        return;
    }
    if (!gate->pending || header->msg_type != INS1_VERDICT || strcmp(message->camera, gate->camera) != 0) return;
    if (header->trigger_id != gate->trigger_id || (header->flags & INS1_REPLAYED)) return;
    if (now_ms - gate->begun_ms >= gate->deadline_ms) return;
    gate->pending = 0;
    int is_alive = gate->heard && now_ms - gate->heartbeat_ms < gate->oldest_ms;
    gate->decided = header->verdict == INS1_OK && is_alive ? INS1_GOOD : INS1_REJECT;
}

ins1_decision ins1_gate_decide(ins1_gate *gate, uint64_t now_ms) {
    if (gate->pending && now_ms - gate->begun_ms >= gate->deadline_ms) {
        gate->pending = 0;
        gate->decided = INS1_REJECT;
    }
    return gate->decided;
}
