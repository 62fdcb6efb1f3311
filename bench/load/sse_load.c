/* Many readers of one event stream, in one thread, and the check that each of them got every event once and in order.
 *
 * usage: sse_load PORT PATH CONTROL [HEADER...]
 *
 * CONTROL is the port where a server takes the orders of bench/servers/control.py, or a path: then this program
 * publishes by itself, one POST an event. Every event carries a mark, `^` with 19 digits of CLOCK_MONOTONIC nanoseconds,
 * a dot, and 10 digits that count the server's events.
 *
 * Orders come on stdin, one a line, and each is answered with one line of JSON:
 *   connect N SLOW      open N readers, SLOW of them with a small window; says when the last answer began
 *   burst M BATCH AHEAD have M events published, BATCH at a time, at most AHEAD of what was delivered
 *   rate R K BATCH      have K times BATCH events published, R times a second; says how late they came
 *   stall N             stop reading from the first N readers
 *   resume              read from them again until each has the newest event
 *   quiet MS            let time pass, reading what comes
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MARK_BYTES = 30, BUFFER_BYTES = 1 << 20, UNANSWERED_MAX = 100, TAIL_BYTES = 16, STALLED_RECEIVE_BYTES = 4096 };
static const uint64_t SECOND = 1000000000ull;
/* An order gives up when nothing came for so long, and after a minute in any case. */
static const uint64_t SILENCE_MAX = 5 * 1000000000ull;
static const uint64_t ORDER_MAX = 60 * 1000000000ull;

typedef struct {
    int fd;
    int is_answered, is_closed, is_stalled, is_broken;
    int mark_length; /* -1 outside of a mark */
    char mark[MARK_BYTES + 1];
    uint64_t number; /* of the last event, 0 before the first */
    int gaps_told, gaps_seen, tail_length;
    char tail[TAIL_BYTES]; /* of a reader that was stalled: what may be the beginning of "covey.gap" */
} Reader;

static Reader *readers;
static int reader_count, stalled_count, answered_count, poller, control = -1, port;
static const char *path, *control_name;
static char headers[4096], *buffer;
static uint64_t delivered, newest, last_received, reads;
static uint64_t *late;
static size_t late_count, late_max;
static uint64_t published; /* when this program publishes by itself */

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t number_of(const char *digits, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; i++) value = value * 10 + (uint64_t)(digits[i] - '0');
    return value;
}

static void take_event(Reader *reader, uint64_t at) {
    uint64_t number = number_of(reader->mark + 20, 10);
    delivered++;
    if (reader->number && number != reader->number + 1) {
        if (number > reader->number && reader->gaps_seen < reader->gaps_told) reader->gaps_seen++;
        else reader->is_broken = 1;
    }
    reader->number = number;
    if (number > newest) newest = number;
    if (late_count < late_max) {
        uint64_t sent = number_of(reader->mark, 19);
        late[late_count++] = at > sent ? at - sent : 0;
    }
}

/* A reader that could not be written to may miss events if it is told so, and only then. */
static void count_gaps(Reader *reader, const char *data, size_t size) {
    static const char word[] = "covey.gap";
    const size_t length = sizeof word - 1;
    char seam[TAIL_BYTES * 2];
    size_t head = size < length - 1 ? size : length - 1;
    memcpy(seam, reader->tail, (size_t)reader->tail_length);
    memcpy(seam + reader->tail_length, data, head);
    if (memmem(seam, (size_t)reader->tail_length + head, word, length)) reader->gaps_told++;
    for (const char *at = data; (at = memmem(at, size - (size_t)(at - data), word, length)); at += length)
        reader->gaps_told++;
    reader->tail_length = (int)head;
    memcpy(reader->tail, data + size - head, head);
}

static void take_data(Reader *reader, const char *data, size_t size) {
    uint64_t at = now();
    const char *end = data + size;
    if (!reader->is_answered) {
        reader->is_answered = 1;
        answered_count++;
    }
    if (reader->is_stalled) count_gaps(reader, data, size);
    while (data < end) {
        if (reader->mark_length < 0) {
            data = memchr(data, '^', (size_t)(end - data));
            if (!data) return;
            data++;
            reader->mark_length = 0;
        }
        int part = MARK_BYTES - reader->mark_length;
        if (part > end - data) part = (int)(end - data);
        memcpy(reader->mark + reader->mark_length, data, (size_t)part);
        data += part;
        reader->mark_length += part;
        if (reader->mark_length == MARK_BYTES) {
            reader->mark_length = -1;
            take_event(reader, at);
        }
    }
}

static int poll_once(int timeout_ms) {
    struct epoll_event found[512];
    int count = epoll_wait(poller, found, 512, timeout_ms);
    for (int i = 0; i < count; i++) {
        Reader *reader = found[i].data.ptr;
        ssize_t size = read(reader ? reader->fd : control, buffer, BUFFER_BYTES);
        if (size > 0) {
            if (!reader) continue;
            reads++;
            take_data(reader, buffer, (size_t)size);
        } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
            if (!reader) fail("the control connection was closed");
            epoll_ctl(poller, EPOLL_CTL_DEL, reader->fd, NULL);
            reader->is_closed = 1;
        }
    }
    if (count > 0) last_received = now();
    return count;
}

static int connected(int to, int receive_bytes) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)to)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (receive_bytes) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    return fd;
}

static void watch(int fd, Reader *reader) {
    struct epoll_event event = {EPOLLIN, {.ptr = reader}};
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void tell(const char *format, ...) {
    char text[1024];
    va_list values;
    va_start(values, format);
    int left = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    for (char *at = text; left > 0;) {
        ssize_t sent = send(control, at, (size_t)left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) at += sent, left -= (int)sent;
        else if (errno != EAGAIN) fail("send");
        else poll_once(1);
    }
}

static int is_http(void) { return control_name[0] == '/'; }

static void publish(int batch) {
    static char padding[161];
    if (!padding[0]) memset(padding, 'x', 160);
    for (int i = 0; i < batch; i++) {
        char body[256];
        int size = snprintf(body, sizeof body, "^%019llu.%010llu%s", (unsigned long long)now(),
                            (unsigned long long)++published, padding);
        tell("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s", control_name, size, body);
    }
}

static int broken_count(void) {
    int count = 0;
    for (int i = 0; i < reader_count; i++) count += readers[i].is_broken || readers[i].is_closed;
    return count;
}

static int is_waiting(uint64_t since) { return now() - last_received < SILENCE_MAX && now() - since < ORDER_MAX; }

static void connect_readers(int count, int slow) {
    struct linger at_once = {1, 0}; /* thousands of sockets in TIME_WAIT would be in the next run's way */
    char request[8192];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n%s\r\n", path, port, headers);
    uint64_t begin = last_received = now();
    readers = calloc((size_t)count, sizeof *readers);
    reader_count = count;
    for (int i = 0; i < count; i++) {
        Reader *reader = &readers[i];
        reader->mark_length = -1;
        reader->fd = connected(port, i < slow ? STALLED_RECEIVE_BYTES : 0);
        setsockopt(reader->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        if (write(reader->fd, request, (size_t)size) != size) fail("write");
        watch(reader->fd, reader);
        while (i - answered_count > UNANSWERED_MAX && is_waiting(begin)) poll_once(1);
    }
    while (answered_count < count && is_waiting(begin)) poll_once(20);
    printf("{\"answered\": %d, \"s\": %.4f}\n", answered_count, (double)(now() - begin) / 1e9);
}

static void quiet(int ms) {
    for (uint64_t end = now() + (uint64_t)ms * 1000000; now() < end;) poll_once(10);
}

static void burst(int count, int batch, int ahead) {
    uint64_t each = (uint64_t)(reader_count - stalled_count), wanted = (uint64_t)count * each, told = 0;
    uint64_t begin = last_received = now();
    /* On a core of its own it does not sleep: how often a server must wake its client up would be part of the figure. */
    int left = count, wait_ms = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 0 : 100;
    delivered = reads = 0;
    if (!is_http()) tell("burst %d %d %d\n", count, batch, ahead);
    while (delivered < wanted && is_waiting(begin)) {
        uint64_t seen = delivered / each;
        if (is_http()) {
            for (; left > 0 && (uint64_t)(count - left) < seen + (uint64_t)ahead; left -= batch) {
                publish(batch < left ? batch : left);
                poll_once(0);
                seen = delivered / each;
            }
        } else if (seen >= told + (uint64_t)(ahead / 8)) {
            told = seen;
            tell("seen %llu\n", (unsigned long long)seen);
        }
        poll_once(wait_ms);
    }
    printf("{\"events\": %llu, \"wanted\": %llu, \"s\": %.4f, \"broken\": %d, \"reads\": %llu}\n",
           (unsigned long long)delivered, (unsigned long long)wanted, (double)(last_received - begin) / 1e9,
           broken_count(), (unsigned long long)reads);
}

static int by_value(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static double late_ms(double quantile) {
    return late_count ? (double)late[(size_t)((double)(late_count - 1) * quantile)] / 1e6 : 0.0;
}

static void rate(int per_second, int count, int batch) {
    uint64_t wanted = (uint64_t)count * (uint64_t)batch * (uint64_t)(reader_count - stalled_count);
    uint64_t begin = last_received = now(), next = begin;
    /* The flow beside stalled readers may take long; a sample of how late it came is enough. */
    late_max = wanted < 4000000 ? (size_t)wanted : 4000000;
    late = realloc(late, late_max * sizeof *late + 1);
    late_count = 0;
    delivered = 0;
    if (!is_http()) tell("rate %d %d %d\n", per_second, count, batch);
    else
        for (int left = count; left > 0; left--, next += SECOND / (uint64_t)per_second) {
            while (now() < next) poll_once(now() + 1000000 < next ? 1 : 0);
            publish(batch);
        }
    while (delivered < wanted && now() - last_received < SILENCE_MAX) poll_once(100);
    qsort(late, late_count, sizeof *late, by_value);
    printf("{\"events\": %llu, \"wanted\": %llu, \"s\": %.4f, \"broken\": %d, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
           (unsigned long long)delivered, (unsigned long long)wanted, (double)(last_received - begin) / 1e9,
           broken_count(), late_ms(0.5), late_ms(0.99));
    late_max = 0;
}

static void stall(int count) {
    stalled_count = count;
    for (int i = 0; i < count; i++) {
        readers[i].is_stalled = 1;
        epoll_ctl(poller, EPOLL_CTL_DEL, readers[i].fd, NULL);
    }
    printf("{\"stalled\": %d}\n", count);
}

static int is_caught_up(void) {
    for (int i = 0; i < stalled_count; i++)
        if (!readers[i].is_closed && readers[i].number != newest) return 0;
    return 1;
}

static void resume(void) {
    uint64_t begin = last_received = now();
    int gaps = 0, caught_up = 0, freed = 0, broken = 0;
    delivered = 0;
    for (int i = 0; i < stalled_count; i++) watch(readers[i].fd, &readers[i]);
    while (!is_caught_up() && is_waiting(begin)) poll_once(20);
    for (int i = 0; i < stalled_count; i++) {
        gaps += readers[i].gaps_seen;
        caught_up += readers[i].number == newest;
        /* A server may let go of a reader that takes nothing for long; that one can come back with its cursor. */
        freed += readers[i].is_closed && readers[i].number != newest;
    }
    for (int i = 0; i < reader_count; i++)
        broken += readers[i].is_broken || (readers[i].is_closed && i >= stalled_count);
    printf("{\"events\": %llu, \"caught_up\": %d, \"freed\": %d, \"gaps\": %d, \"s\": %.4f, \"broken\": %d}\n",
           (unsigned long long)delivered, caught_up, freed, gaps, (double)(last_received - begin) / 1e9, broken);
}

int main(int argc, char **argv) {
    char line[256];
    if (argc < 4) return 2;
    port = atoi(argv[1]);
    path = argv[2];
    control_name = argv[3];
    for (int i = 4; i < argc; i++) {
        strncat(headers, argv[i], sizeof headers - strlen(headers) - 3);
        strcat(headers, "\r\n");
    }
    buffer = malloc(BUFFER_BYTES);
    poller = epoll_create1(0);
    control = connected(is_http() ? port : atoi(control_name), 0);
    watch(control, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* Nothing is read between two orders; what a server sends then waits in the sockets. */
    while (fgets(line, sizeof line, stdin)) {
        int a = 0, b = 0, c = 0;
        if (sscanf(line, "connect %d %d", &a, &b) >= 1) connect_readers(a, b);
        else if (sscanf(line, "burst %d %d %d", &a, &b, &c) == 3) burst(a, b, c);
        else if (sscanf(line, "rate %d %d %d", &a, &b, &c) == 3) rate(a, b, c);
        else if (sscanf(line, "stall %d", &a) == 1) stall(a);
        else if (sscanf(line, "quiet %d", &a) == 1) quiet(a), printf("{}\n");
        else if (!strncmp(line, "resume", 6)) resume();
        else return 2;
    }
    return 0;
}
