/* Drives ins1.c on bytes for test_c.py: golden vectors, JSON, the gate, and noise.
 *
 *     message FILE        status; then header, camera and labels of a vector
 *     tcp FILE            header after header, until one is refused
 *     json FILE           1 or 0; then the value of its member "found" as number, text and count of items
 *     gate                what the gate decides in each case, a line each
 *     fuzz COUNT FILE...  changes vectors and reads them; the sanitisers watch
 */
#include "ins1.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 1 << 21 };

static uint8_t *load(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(ROOM);
    if (file == NULL || data == NULL) exit(3);
    *size = fread(data, 1, ROOM, file);
    fclose(file);
    return data;
}

/* Each part in memory of its own length, so that a byte beyond it is noticed. */
static size_t split(const uint8_t *data, size_t size, ins1_part *parts, size_t most) {
    size_t count = 0;
    for (size_t at = 0; at + 4 <= size && count < most; count++) {
        size_t length = data[at] + 256u * data[at + 1] + 65536u * data[at + 2] + 16777216u * data[at + 3];
        at += 4;
        if (length > size - at) exit(3);
        void *part = malloc(length);
        if (length > 0) memcpy(part, data + at, length);
        parts[count].data = part;
        parts[count].size = length;
        at += length;
    }
    return count;
}

static void drop(ins1_part *parts, size_t count) {
    for (size_t at = 0; at < count; at++) free((void *)parts[at].data);
}

static void print_header(const ins1_header *header) {
    printf("%u %u %u %" PRIu32 " %u %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRIu32 " %" PRIu32, header->ver_minor,
           header->msg_type, header->flags, header->epoch, header->stream, header->seq, header->frame_id,
           header->t_acq_ns, header->latency_us, header->crc32);
    printf(" %u %u %u %u %u %" PRIu32 " %" PRIu32 "\n", header->verdict, header->state, header->defect_count,
           header->worst_class, header->worst_score_e4, header->recipe_no, header->trigger_id);
}

static void do_message(const char *path) {
    ins1_part parts[8];
    ins1_message message;
    size_t size;
    uint8_t *data = load(path, &size);
    size_t count = split(data, size, parts, 8);
    ins1_status status = ins1_read_message(parts, count, &message);
    ins1_mask mask = {0, 0, 0};
    int is_mask = status == INS1_FINE && message.header.msg_type == INS1_MASK;
    if (is_mask) status = ins1_read_mask(&message, &mask);
    printf("%d %s\n", status, ins1_status_text(status));
    if (status == INS1_FINE) {
        print_header(&message.header);
        printf("%s\n", message.camera);
    }
    if (is_mask && status == INS1_FINE) {
        size_t pixels = (size_t)mask.width * mask.height;
        uint8_t *labels = malloc(pixels);
        if (ins1_read_labels(&message, labels, pixels - 1) == INS1_FINE) exit(4);
        if (ins1_read_labels(&message, labels, pixels) != INS1_FINE) exit(4);
        for (size_t at = 0; at < pixels; at++) printf("%u ", labels[at]);
        printf("\n");
        free(labels);
    }
    drop(parts, count);
    free(data);
}

static void do_tcp(const char *path) {
    ins1_header header;
    size_t size;
    uint8_t *data = load(path, &size);
    for (size_t at = 0; at + 64 <= size; at += 64) {
        if (ins1_read_tcp_header(data + at, &header) != INS1_FINE) break;
        print_header(&header);
    }
    free(data);
}

static int walk(ins1_json value, int depth) {
    ins1_json item;
    char text[32];
    uint64_t number;
    int seen = 1;
    ins1_json_uint(value, UINT64_MAX, &number);
    ins1_json_text(value, text, sizeof text);
    ins1_json_member(value, "streams", &item);
    if (depth < 4)
        while (ins1_json_next(&value, &item)) seen += walk(item, depth + 1);
    return seen;
}

static void do_json(const char *path) {
    ins1_json whole, value, item;
    uint64_t number = 0;
    char text[32] = "";
    int items = 0;
    size_t size;
    uint8_t *data = load(path, &size);
    char *tight = malloc(size);
    if (size > 0) memcpy(tight, data, size);
    int fine = ins1_json_whole(tight, size, &whole);
    printf("%d\n", fine);
    if (fine) {
        walk(whole, 0);
        if (ins1_json_member(whole, "found", &value)) {
            int has_number = ins1_json_uint(value, UINT64_MAX, &number);
            int has_text = ins1_json_text(value, text, sizeof text);
            while (ins1_json_next(&value, &item)) items++;
            printf("%d %" PRIu64 "\n%d %s\n%d\n", has_number, number, has_text, text, items);
        }
    }
    free(tight);
    free(data);
}

static ins1_message made(int msg_type, int verdict, uint32_t trigger_id, const char *camera, int flags) {
    ins1_message message;
    memset(&message, 0, sizeof message);
    message.header.msg_type = (uint8_t)msg_type;
    message.header.verdict = (uint8_t)verdict;
    message.header.flags = (uint8_t)flags;
    message.header.trigger_id = trigger_id;
    snprintf(message.camera, sizeof message.camera, "%s", camera);
    return message;
}

/* A heartbeat, after `age` the trigger 7, after `wait` a verdict, then the decision; -1 for none of them. */
static void one_gate(int64_t age, int64_t wait, ins1_message verdict, uint64_t then) {
    ins1_gate gate;
    ins1_message heartbeat = made(INS1_HEARTBEAT, 0, 0, "", 0);
    uint64_t now = 1000;
    ins1_gate_init(&gate, "cam1", 250);
    if (age >= 0) {
        ins1_gate_feed(&gate, &heartbeat, now);
        now += (uint64_t)age;
    }
    ins1_gate_begin(&gate, 7, 500, now);
    if (wait >= 0) {
        ins1_gate_feed(&gate, &verdict, now + (uint64_t)wait);
    }
    printf("%d\n", ins1_gate_decide(&gate, now + then));
}

static void do_gate(void) {
    ins1_message good = made(INS1_VERDICT, 1, 7, "cam1", 0);
    ins1_gate gate;
    one_gate(0, 10, good, 10);
    for (int verdict = 0; verdict < 5; verdict++)
        if (verdict != 1) one_gate(0, 10, made(INS1_VERDICT, verdict, 7, "cam1", 0), 10);
    one_gate(0, 10, made(INS1_VERDICT, 1, 6, "cam1", 0), 10);
    one_gate(0, 10, made(INS1_VERDICT, 1, 7, "cam2", 0), 10);
    one_gate(0, 10, made(INS1_VERDICT, 1, 7, "cam1", INS1_REPLAYED), 500);
    one_gate(0, 499, good, 499);
    one_gate(0, 500, good, 500);
    one_gate(0, -1, good, 499);
    one_gate(0, -1, good, 500);
    one_gate(739, 10, good, 10);
    one_gate(740, 10, good, 10);
    one_gate(-1, 10, good, 10);
    ins1_gate_init(&gate, "cam1", 250);
    printf("%d\n", ins1_gate_decide(&gate, 0));
}

static uint64_t state;

static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

static void seal(ins1_part *parts, size_t count) {
    uint8_t *header = (uint8_t *)parts[1].data;
    uint32_t crc = ins1_crc32(0, parts[2].data, parts[2].size);
    if (count > 3) crc = ins1_crc32(crc, parts[3].data, parts[3].size);
    for (int at = 0; at < 4; at++) header[44 + at] = (uint8_t)(crc >> 8 * at);
}

static void do_fuzz(int rounds, char **paths, int path_count) {
    long fine = 0;
    for (int round = 0; round < rounds; round++) {
        ins1_part parts[8];
        ins1_message message;
        size_t size;
        uint8_t *data = load(paths[round % path_count], &size);
        size_t count = split(data, size, parts, 8);
        state = 0x9e3779b97f4a7c15u + (uint64_t)round * 1000003u;
        for (int change = (int)draw(5); change > 0; change--) {
            size_t part = draw((uint32_t)count);
            uint8_t *bytes = (uint8_t *)parts[part].data;
            if (parts[part].size == 0) continue;
            static const char telling[] = "{}[]\",:\\u09eE+-.tfn\0\xff\x80";
            uint32_t at = draw((uint32_t)parts[part].size);
            bytes[at] = draw(2) ? (uint8_t)draw(256) : (uint8_t)telling[draw(sizeof telling)];
        }
        if (draw(8) == 0) {
            /* Cut a part short, in memory of its own. */
            size_t part = draw((uint32_t)count), left = draw((uint32_t)parts[part].size + 1);
            void *shorter = malloc(left);
            if (left > 0) memcpy(shorter, parts[part].data, left);
            free((void *)parts[part].data);
            parts[part].data = shorter;
            parts[part].size = left;
        }
        if (draw(4) != 0 && count >= 3 && parts[1].size >= 64) seal(parts, count);
        if (ins1_read_message(parts, count, &message) == INS1_FINE) {
            ins1_mask mask;
            fine++;
            walk(message.body, 0);
            if (ins1_read_mask(&message, &mask) == INS1_FINE && (uint64_t)mask.width * mask.height < ROOM) {
                uint8_t *labels = malloc((size_t)mask.width * mask.height);
                if (ins1_read_labels(&message, labels, (size_t)mask.width * mask.height) != INS1_FINE) exit(4);
                free(labels);
            }
        }
        /* Noise as JSON. */
        ins1_json whole;
        char noise[64];
        size_t length = draw(sizeof noise);
        static const char signs[] = "{}[]\",:\\u0019eE+-.truefalsn \xc3\xa9\xf0\x80";
        for (size_t at = 0; at < length; at++) noise[at] = signs[draw(sizeof signs - 1)];
        char *tight = malloc(length);
        if (length > 0) memcpy(tight, noise, length);
        if (ins1_json_whole(tight, length, &whole)) walk(whole, 0);
        free(tight);
        drop(parts, count);
        free(data);
    }
    printf("%ld\n", fine);
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "message") == 0) do_message(words[2]);
    else if (count == 3 && strcmp(words[1], "tcp") == 0) do_tcp(words[2]);
    else if (count == 3 && strcmp(words[1], "json") == 0) do_json(words[2]);
    else if (count == 2 && strcmp(words[1], "gate") == 0) do_gate();
    else if (count > 3 && strcmp(words[1], "fuzz") == 0) do_fuzz(atoi(words[2]), words + 3, count - 3);
    else return 2;
    return 0;
}
