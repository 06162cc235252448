/* INS1 for programs in C: messages, every result once, and the fail-safe rule. C99 and libzmq 4.3.5, nothing else.
 *
 *     ins1_read_message   check and read what came from a socket
 *     ins1_open, _poll    follow a station: each result once, by the six rules of docs/protocol.md
 *     ins1_gate           whether a part may pass
 *
 * Nothing here is allocated by a size that came over the network. The normative text is docs/protocol.md.
 */
#ifndef INS1_H
#define INS1_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    INS1_VERDICT = 1,
    INS1_MASK = 2,
    INS1_HEARTBEAT = 3,
    INS1_STATS = 4,
    INS1_STATE = 5,
    INS1_ALARM = 6,
    INS1_PREVIEW = 7
};

enum { INS1_UNDEFINED = 0, INS1_OK = 1, INS1_NG = 2, INS1_REVIEW = 3, INS1_NOT_INSPECTED = 4 };

enum {
    INS1_SIMULATED = 1,
    INS1_PARTIAL = 2,
    INS1_REPLAYED = 4,
    INS1_TRUNCATED = 8,
    INS1_TIME_SYNCED = 16,
    INS1_NOT_DURABLE = 32
};

enum {
    INS1_STATION_STREAM = 65535,
    INS1_HEADER_BYTES = 64,
    INS1_MAX_BODY_BYTES = 1 << 20,
    INS1_MAX_PAYLOAD_BYTES = 1 << 28,
    INS1_MAX_PIXELS = 1 << 28,
    INS1_MAX_TOPIC_BYTES = 255,
    INS1_CAMERA_ROOM = 65, /* 64 and the end */
    INS1_MAX_REPLAY = 500,
    INS1_HEARTBEAT_MS = 250
};

/* The fixed part. Every field lies at a multiple of its size, so no packing is needed. */
typedef struct ins1_header {
    uint8_t magic[4];
    uint8_t ver_major;
    uint8_t ver_minor;
    uint8_t msg_type;
    uint8_t flags;
    uint32_t epoch;
    uint16_t header_bytes;
    uint16_t stream;
    uint64_t seq;
    uint64_t frame_id;
    int64_t t_acq_ns;
    uint32_t latency_us;
    uint32_t crc32;
    uint8_t verdict;
    uint8_t state;
    uint16_t defect_count;
    uint16_t worst_class;
    uint16_t worst_score_e4;
    uint32_t recipe_no;
    uint32_t trigger_id;
} ins1_header;

#if defined(__cplusplus)
#define INS1_ASSERT(condition, name) static_assert(condition, #name)
#elif (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L) || defined(__GNUC__)
#define INS1_ASSERT(condition, name) _Static_assert(condition, #name)
#else
#define INS1_ASSERT(condition, name) typedef char ins1_assert_##name[(condition) ? 1 : -1]
#endif
#define INS1_AT(field, offset) INS1_ASSERT(offsetof(ins1_header, field) == (offset), field##_at_##offset)

INS1_ASSERT(sizeof(ins1_header) == INS1_HEADER_BYTES, header_has_64_bytes);
INS1_AT(magic, 0);
INS1_AT(ver_major, 4);
INS1_AT(ver_minor, 5);
INS1_AT(msg_type, 6);
INS1_AT(flags, 7);
INS1_AT(epoch, 8);
INS1_AT(header_bytes, 12);
INS1_AT(stream, 14);
INS1_AT(seq, 16);
INS1_AT(frame_id, 24);
INS1_AT(t_acq_ns, 32);
INS1_AT(latency_us, 40);
INS1_AT(crc32, 44);
INS1_AT(verdict, 48);
INS1_AT(state, 49);
INS1_AT(defect_count, 50);
INS1_AT(worst_class, 52);
INS1_AT(worst_score_e4, 54);
INS1_AT(recipe_no, 56);
INS1_AT(trigger_id, 60);

/* Why something was refused. Whatever is not INS1_FINE: treat the part as not inspected. */
typedef enum ins1_status {
    INS1_FINE = 0,
    INS1_BAD_PARTS,      /* not three or four parts, or one too long */
    INS1_BAD_HEADER,     /* cut short, another magic, or a field out of range */
    INS1_BAD_VERSION,    /* another major version */
    INS1_BAD_TOPIC,      /* no topic of INS1, or of another type than the header's */
    INS1_BAD_CHECKSUM,   /* body or payload were damaged */
    INS1_BAD_JSON,       /* the body is no JSON object */
    INS1_BAD_MASK,       /* the mask does not hold together */
    INS1_NOT_SUPPORTED   /* fine perhaps, but of an encoding that this code does not read */
} ins1_status;

const char *ins1_status_text(ins1_status status);

/* CRC-32 of zlib and PNG; begin with 0. */
uint32_t ins1_crc32(uint32_t crc, const void *data, size_t size);

/* Check and read a header; also one that a later minor version made longer. */
ins1_status ins1_read_header(const void *data, size_t size, ins1_header *header);

/* The same for the 64 bytes that come over plain TCP; close the connection where it is not fine. */
ins1_status ins1_read_tcp_header(const void *data, ins1_header *header);

/* JSON: a value of a text that ins1_json_whole has checked. Objects are searched by the bytes of their names. */
typedef struct ins1_json {
    const char *at;
    const char *end;
} ins1_json;

/* 1 if all of the text is one JSON value, no deeper than 32; then it is `value`. */
int ins1_json_whole(const char *text, size_t size, ins1_json *value);
/* 1 if an object has a member of this name. */
int ins1_json_member(ins1_json object, const char *name, ins1_json *value);
/* The items of an array: begin with `cursor` as the array; 0 after the last one. */
int ins1_json_next(ins1_json *cursor, ins1_json *item);
/* 1 if it is a whole number from 0 to `highest`. */
int ins1_json_uint(ins1_json value, uint64_t highest, uint64_t *number);
/* 1 if it is true. */
int ins1_json_true(ins1_json value);
/* 1 if it is a text that fits, with its end; escapes are resolved, \u0000 is refused. */
int ins1_json_text(ins1_json value, char *text, size_t room);

typedef struct ins1_part {
    const void *data;
    size_t size;
} ins1_part;

/* A message; body and payload lie in the parts that it was read from. */
typedef struct ins1_message {
    ins1_header header;
    char camera[INS1_CAMERA_ROOM]; /* "" where it is of the station */
    ins1_json body;                /* an object */
    const uint8_t *payload;
    size_t payload_size;
} ins1_message;

ins1_status ins1_read_message(const ins1_part *parts, size_t count, ins1_message *message);

typedef struct ins1_mask {
    uint32_t width;
    uint32_t height;
    uint32_t class_count;
} ins1_mask;

/* Check a mask message, encoding rle8 alone, without allocating; width x height labels then fit the mask. */
ins1_status ins1_read_mask(const ins1_message *message, ins1_mask *mask);
/* The labels of a mask message, row by row, into `room` bytes; 0 is the good surface. */
ins1_status ins1_read_labels(const ins1_message *message, uint8_t *labels, size_t room);

/* Following a station. */

typedef enum ins1_event_kind {
    INS1_EVENT_STARTED, /* what comes from here on is told: epoch, stream, first */
    INS1_EVENT_RESULT,  /* a verdict, with its mask where masks are asked for and there is one */
    INS1_EVENT_CHANGED, /* a change of state or an alarm */
    INS1_EVENT_LOST,    /* epoch, stream, first to last cannot be had any more; last 0: to an end that is not known */
    INS1_EVENT_SPOILED  /* a message that does not follow INS1; what it was is fetched again, if it counts */
} ins1_event_kind;

typedef struct ins1_event {
    ins1_event_kind kind;
    const ins1_message *message; /* NULL but for results and changes; valid until the handler returns */
    const ins1_message *mask;    /* or NULL: not asked for, not inspected, or not to be had within patience_ms */
    uint32_t epoch;
    uint16_t stream;
    uint64_t first;
    uint64_t last;
    const char *reason; /* for people */
} ins1_event;

typedef struct ins1_options {
    const char *publish;    /* address of the results */
    const char *control;    /* address of control; NULL: nothing can be fetched again, and a gap is lost */
    const char *topics[8];  /* prefixes, such as ins1/verdict/cam1/; ends with NULL. Heartbeats are always taken;
                               none at all: verdicts, state and alarms of everything, and masks if asked for */
    int masks;              /* wait for the mask of each verdict, and fetch it where it is missing */
    const char *server_key; /* CURVE keys in Z85, or NULL */
    const char *public_key;
    const char *secret_key;
    /* How long a question may stay unanswered before what it was about is lost, or a verdict is told without its
       mask; 0: 60 s. */
    int patience_ms;
    void (*handler)(void *user, const ins1_event *event);
    /* Told of each message as it is read, before what was lost before it is fetched; may be NULL. */
    void (*heard)(void *user, const ins1_message *message);
    /* Asked while an answer is waited for: whether to give that up, since the program ends; may be NULL. */
    int (*stopped)(void *user);
    void *user;
} ins1_options;

typedef struct ins1_client ins1_client;

/* Connect; NULL with the reason in `error`. Returns before the connection stands. */
ins1_client *ins1_open(const ins1_options *options, char *error, size_t room);
/* Handle what comes within the time; call it again and again. -1: the station gave no snapshot at the start. */
int ins1_poll(ins1_client *client, int timeout_ms);
void ins1_close(ins1_client *client);

/* The fail-safe rule: a part is good only if everything holds, all else is a reject. */

typedef enum ins1_decision { INS1_WAIT = -1, INS1_REJECT = 0, INS1_GOOD = 1 } ins1_decision;

typedef struct ins1_gate {
    char camera[INS1_CAMERA_ROOM];
    uint64_t oldest_ms; /* three periods of the heartbeat */
    uint64_t heartbeat_ms;
    uint64_t begun_ms;
    uint64_t deadline_ms;
    uint32_t trigger_id;
    int heard;
    int pending;
    ins1_decision decided;
} ins1_gate;

/* Your own monotonic clock, ms. */
uint64_t ins1_now_ms(void);
void ins1_gate_init(ins1_gate *gate, const char *camera, uint32_t period_ms);
/* A part was triggered; its verdict has to come within deadline_ms. */
void ins1_gate_begin(ins1_gate *gate, uint32_t trigger_id, uint32_t deadline_ms, uint64_t now_ms);
void ins1_gate_feed(ins1_gate *gate, const ins1_message *message, uint64_t now_ms);
/* INS1_WAIT never comes after the deadline. */
ins1_decision ins1_gate_decide(ins1_gate *gate, uint64_t now_ms);

#ifdef __cplusplus
}
#endif

#endif
