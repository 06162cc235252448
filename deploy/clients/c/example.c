/* A line for each result of a station, each exactly once, across gaps and starts of the station.
 *
 *     example tcp://10.0.0.5:5560 tcp://10.0.0.5:5561 [--masks]      control may be "-": then nothing is fetched again
 *     example tcp://10.0.0.5:5560 tcp://10.0.0.5:5561 --camera cam1  of one camera alone
 *     example tcp://10.0.0.5:5560 - --part CAMERA TRIGGER_ID MS      good (exit 0) or reject (exit 1)
 */
#include "ins1.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t over = 0;

static void stop(int number) {
    (void)number;
    over = 1;
}

static int is_over(void *user) {
    (void)user;
    return over;
}

static const char *const VERDICTS[] = {"UNDEFINED", "OK", "NG", "REVIEW", "NOT_INSPECTED"};

/* Defect pixels, without allocating the mask: the runs are summed as they stand. */
static void print_mask(const ins1_message *message) {
    ins1_mask mask;
    ins1_status status = ins1_read_mask(message, &mask);
    if (status != INS1_FINE) {
        printf(" mask refused: %s", ins1_status_text(status));
        return;
    }
    uint64_t pixels = 0;
    size_t runs = message->payload_size / 5;
    for (size_t run = 0; run < runs; run++) {
        const uint8_t *length = message->payload + 4 * run;
        if (message->payload[4 * runs + run] != 0)
            pixels += length[0] | (uint32_t)length[1] << 8 | (uint32_t)length[2] << 16 | (uint32_t)length[3] << 24;
    }
    printf(" mask=%" PRIu32 "x%" PRIu32 " defect_px=%" PRIu64, mask.width, mask.height, pixels);
}

static void print_event(void *user, const ins1_event *event) {
    (void)user;
    switch (event->kind) {
        case INS1_EVENT_STARTED:
            printf("started %" PRIu32 " %u %" PRIu64, event->epoch, event->stream, event->first);
            break;
        case INS1_EVENT_RESULT: {
            const ins1_header *header = &event->message->header;
            printf("result %" PRIu32 " %u %" PRIu64 " %s %s part=%" PRIu32 " defects=%u", event->epoch, event->stream,
                   event->first, event->message->camera, VERDICTS[header->verdict], header->trigger_id,
                   header->defect_count);
            if (event->mask != NULL) print_mask(event->mask);
            break;
        }
        case INS1_EVENT_CHANGED: {
            ins1_json value;
            char word[64] = "";
            const char *name = event->message->header.msg_type == INS1_STATE ? "state" : "code";
            if (ins1_json_member(event->message->body, name, &value)) ins1_json_text(value, word, sizeof word);
            printf("changed %" PRIu32 " %u %" PRIu64 " %s", event->epoch, event->stream, event->first, word);
            break;
        }
        case INS1_EVENT_LOST:
            printf("lost %" PRIu32 " %u %" PRIu64 " %" PRIu64 " %s", event->epoch, event->stream, event->first,
                   event->last, event->reason);
            break;
        case INS1_EVENT_SPOILED: printf("spoiled %s", event->reason); break;
    }
    printf("\n");
    fflush(stdout);
}

static void ignore_event(void *user, const ins1_event *event) {
    (void)user;
    (void)event;
}

static void feed_gate(void *user, const ins1_message *message) { ins1_gate_feed(user, message, ins1_now_ms()); }

int main(int count, char **words) {
    ins1_options options = {0};
    ins1_gate gate;
    char error[256];
    char topic[INS1_MAX_TOPIC_BYTES + 1];
    int one_part = count == 7 && strcmp(words[3], "--part") == 0;
    int one_camera = count == 5 && strcmp(words[3], "--camera") == 0;
    if (count != 3 && !(count == 4 && strcmp(words[3], "--masks") == 0) && !one_camera && !one_part) {
        fprintf(stderr, "expected: %s PUBLISH CONTROL [--masks], PUBLISH CONTROL --camera NAME, or ", words[0]);
        fprintf(stderr, "PUBLISH - --part CAMERA TRIGGER_ID MS\n");
        return 2;
    }
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    options.publish = words[1];
    options.control = strcmp(words[2], "-") == 0 ? NULL : words[2];
    options.masks = count == 4;
    options.handler = print_event;
    options.stopped = is_over;
    if (one_camera) {
        snprintf(topic, sizeof topic, "ins1/verdict/%s/", words[4]);
        options.topics[0] = topic;
    }
    if (one_part) {
        ins1_gate_init(&gate, words[4], INS1_HEARTBEAT_MS);
        uint32_t trigger_id = (uint32_t)strtoul(words[5], NULL, 10);
        ins1_gate_begin(&gate, trigger_id, (uint32_t)strtoul(words[6], NULL, 10), ins1_now_ms());
        options.control = NULL; /* what is fetched again would come too late for a part that is passing by */
        options.handler = ignore_event;
        options.heard = feed_gate;
        options.user = &gate;
    }
    ins1_client *client = ins1_open(&options, error, sizeof error);
    if (client == NULL) {
        fprintf(stderr, "%s\n", error);
        return 2;
    }
    int status = 0;
    while (!over) {
        if (ins1_poll(client, one_part ? 10 : 200) < 0) {
            if (!over) fprintf(stderr, "%s: no snapshot; check the address of control\n", words[2]);
            status = over ? 0 : 2;
            break;
        }
        if (one_part && ins1_gate_decide(&gate, ins1_now_ms()) != INS1_WAIT) {
            status = ins1_gate_decide(&gate, ins1_now_ms()) == INS1_GOOD ? 0 : 1;
            printf("%s\n", status == 0 ? "good" : "reject");
            break;
        }
    }
    ins1_close(client);
    return status;
}
