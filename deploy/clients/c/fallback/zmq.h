/* What ins1.c needs of libzmq 4.3, for machines that have the library and not its header; the Makefile takes it only
 * there. Names and numbers are those of libzmq's stable API; a test holds them against an installed libzmq. */
#ifndef INS1_FALLBACK_ZMQ_H
#define INS1_FALLBACK_ZMQ_H

#include <stddef.h>

enum {
    ZMQ_SUB = 2,
    ZMQ_DEALER = 5,
    ZMQ_SUBSCRIBE = 6,
    ZMQ_LINGER = 17,
    ZMQ_RECONNECT_IVL_MAX = 21,
    ZMQ_MAXMSGSIZE = 22,
    ZMQ_RCVHWM = 24,
    ZMQ_IMMEDIATE = 39,
    ZMQ_IPV6 = 42,
    ZMQ_CURVE_PUBLICKEY = 48,
    ZMQ_CURVE_SECRETKEY = 49,
    ZMQ_CURVE_SERVERKEY = 50,
    ZMQ_HEARTBEAT_IVL = 75,
    ZMQ_HEARTBEAT_TIMEOUT = 77,
    ZMQ_DONTWAIT = 1,
    ZMQ_SNDMORE = 2,
    ZMQ_POLLIN = 1
};

typedef union zmq_msg_t {
    unsigned char bytes[64];
    void *aligned;
} zmq_msg_t;

typedef struct zmq_pollitem_t {
    void *socket;
#if defined _WIN32
    size_t fd;
#else
    int fd;
#endif
    short events;
    short revents;
} zmq_pollitem_t;

void *zmq_ctx_new(void);
int zmq_ctx_term(void *context);
void *zmq_socket(void *context, int kind);
int zmq_close(void *socket);
int zmq_setsockopt(void *socket, int option, const void *value, size_t size);
int zmq_connect(void *socket, const char *address);
int zmq_send(void *socket, const void *data, size_t size, int flags);
int zmq_poll(zmq_pollitem_t *items, int count, long timeout_ms);
int zmq_errno(void);
const char *zmq_strerror(int number);
int zmq_msg_init(zmq_msg_t *message);
int zmq_msg_recv(zmq_msg_t *message, void *socket, int flags);
int zmq_msg_close(zmq_msg_t *message);
int zmq_msg_move(zmq_msg_t *to, zmq_msg_t *from);
void *zmq_msg_data(zmq_msg_t *message);
size_t zmq_msg_size(const zmq_msg_t *message);
int zmq_msg_more(const zmq_msg_t *message);

#endif
