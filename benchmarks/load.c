/* A load generator that understands server-sent events. Prints one JSON object.
 *
 *   load -p PORT -c CONNECTIONS -d SECONDS [-w SECONDS] [-r RATE] [-n COUNT] [-H 'name: value']
 *        -f FILE
 *
 * FILE is the body of every request. Closed loop: a connection asks again as soon as it has its answer. With -r: open loop, RATE
 * requests a second, each timed from the moment it was due, so that a stall is not forgiven.
 * With -n: COUNT requests, and no more. -w is a time at the start that is not counted. At the end what is in flight is waited for (at
 * most DRAIN_S), so that the CPU a server spent belongs to a known number of requests.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_S 20
#define HEAD_LIMIT 16384
#define BATCH 256
#define SECOND 1000000000LL

enum body { NO_HEAD_YET, BY_LENGTH, BY_CHUNKS, UNTIL_CLOSE };
enum part { SIZE, EXTENSION, DATA, DATA_END, TRAILER };

struct link {
    int fd, is_busy, status, closes, line;
    int64_t begun, first, last;
    enum body body;
    enum part part;
    long long left, events;
    size_t written, head_len;
    char head[HEAD_LIMIT + 1], before, tail[8];
};

struct times { uint32_t *at; size_t n, cap; };

static struct {
    int port, connections;
    double seconds, warm_s, rate;
    long long most;
    char headers[4096];
    const char *file;
} ask = {.connections = 1, .seconds = 1};

static struct {
    long long sent, answered, in_window, http_errors, broken, no_done, events, window_events;
    int odd_status;
    struct times whole, first, gap;
} got;

static char *request;
static size_t request_len;
static struct link *links;
static int epoll, in_flight, is_stream;
static int64_t counted_from, over_at;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void keep(struct times *in, int64_t ns) {
    if (in->n == in->cap) {
        in->cap = in->cap ? in->cap * 2 : 4096;
        in->at = realloc(in->at, in->cap * sizeof *in->at);
        if (!in->at) abort();
    }
    in->at[in->n++] = ns / 100 > UINT32_MAX ? UINT32_MAX : ns / 100;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* In milliseconds; `in` is sorted by then. */
static double share(struct times *in, double part) {
    return in->n ? in->at[(size_t)(part * (in->n - 1) + 0.5)] / 1e4 : 0;
}

static void dial(struct link *l) {
    int yes = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ask.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(l->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        perror("load");
        exit(1);
    }
    struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = l}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, l->fd, &e);
}

static void redial(struct link *l) {
    close(l->fd);
    dial(l);
}

static void push(struct link *l) {
    while (l->written < request_len) {
        ssize_t n = send(l->fd, request + l->written, request_len - l->written, MSG_NOSIGNAL);
        if (n < 0) return; /* EPOLLOUT, or the failing read, brings us back */
        l->written += n;
    }
}

static void begin(struct link *l, int64_t due) {
    int fd = l->fd;
    memset(l, 0, sizeof *l);
    l->fd = fd;
    l->is_busy = 1;
    l->begun = due;
    in_flight++;
    got.sent++;
    if (got.sent == ask.most) over_at = now_ns();
    push(l);
}

static void finish(struct link *l, int is_whole, int64_t now) {
    l->is_busy = 0;
    in_flight--;
    got.events += l->events;
    if (!is_whole) got.broken++;
    else if (l->status != 200) {
        got.http_errors++;
        got.odd_status = l->status;
    } else {
        got.answered++;
        if (now >= counted_from && now <= over_at) got.in_window++;
        if (is_stream && !memmem(l->tail, sizeof l->tail, "[DONE]", 6)) got.no_done++;
        if (l->begun < counted_from) return;
        keep(&got.whole, now - l->begun);
        keep(&got.first, l->first - l->begun);
    }
}

/* An event ends with an empty line; several may come with one read. */
static void take_body(struct link *l, const char *bytes, size_t n, int64_t now) {
    long long had = l->events;
    if (!n) return;
    if (!l->first) l->first = now;
    if (!is_stream) return;
    for (const char *at = bytes; (at = memchr(at, '\n', bytes + n - at)); at++)
        if ((at == bytes ? l->before : at[-1]) == '\n') l->events++;
    l->before = bytes[n - 1];
    size_t kept = sizeof l->tail;
    if (n >= kept) memcpy(l->tail, bytes + n - kept, kept);
    else {
        memmove(l->tail, l->tail + n, kept - n);
        memcpy(l->tail + kept - n, bytes, n);
    }
    if (l->events == had) return;
    if (now >= counted_from && now <= over_at) got.window_events += l->events - had;
    if (l->last && l->begun >= counted_from) keep(&got.gap, now - l->last);
    l->last = now;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Takes bytes of a chunked body; answers 1 when the body is complete. */
static int take_chunks(struct link *l, const char *at, const char *end, int64_t now) {
    while (at < end) {
        if (l->part == DATA) {
            size_t n = end - at < l->left ? end - at : l->left;
            take_body(l, at, n, now);
            at += n;
            l->left -= n;
            if (!l->left) l->part = DATA_END;
            continue;
        }
        char c = *at++;
        if (l->part == SIZE && hex(c) >= 0) l->left = l->left * 16 + hex(c);
        else if (l->part == SIZE && c != '\n') l->part = EXTENSION;
        else if (c == '\n' && l->part == DATA_END) l->part = SIZE;
        else if (c == '\n' && l->part == TRAILER) {
            if (!l->line) return 1;
            l->line = 0;
        } else if (c == '\n') l->part = l->left ? DATA : TRAILER;
        else if (l->part == TRAILER && c != '\r') l->line++;
    }
    return 0;
}

static void read_head(struct link *l, const char *end) {
    l->status = atoi(l->head + 9);
    l->body = UNTIL_CLOSE;
    for (char *line = l->head; line < end; line = strstr(line, "\r\n") + 2) {
        if (!strncasecmp(line, "content-length:", 15)) {
            l->left = atoll(line + 15);
            l->body = BY_LENGTH;
        } else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) l->body = BY_CHUNKS;
        else if (!strncasecmp(line, "connection: close", 17)) l->closes = 1;
    }
}

/* Takes what came; answers 1 when the response is complete, -1 when it is no response. */
static int take(struct link *l, const char *bytes, size_t n, int64_t now) {
    if (l->body == NO_HEAD_YET) {
        size_t had = l->head_len, room = HEAD_LIMIT - had, some = n < room ? n : room;
        memcpy(l->head + had, bytes, some);
        l->head_len += some;
        l->head[l->head_len] = 0;
        char *end = strstr(l->head, "\r\n\r\n");
        if (!end) return l->head_len == HEAD_LIMIT ? -1 : 0;
        read_head(l, end);
        size_t used = end + 4 - l->head - had;
        bytes += used;
        n -= used;
    }
    if (l->body == BY_CHUNKS) return take_chunks(l, bytes, bytes + n, now);
    take_body(l, bytes, n, now);
    if (l->body == UNTIL_CLOSE) return 0;
    l->left -= n;
    return l->left <= 0;
}

static void done_with(struct link *l, int is_whole, int must_redial) {
    int64_t now = now_ns();
    if (l->is_busy) finish(l, is_whole, now);
    if (must_redial) redial(l);
    if (!ask.rate && now < over_at) begin(l, now);
}

static void attend(struct link *l) {
    static char bytes[262144];
    if (l->is_busy) push(l);
    for (;;) {
        ssize_t n = recv(l->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) return done_with(l, l->body == UNTIL_CLOSE && l->status, 1);
        if (!l->is_busy) continue;
        int is_over = take(l, bytes, n, now_ns());
        if (!is_over) continue;
        int must_redial = is_over < 0 || l->closes;
        done_with(l, is_over > 0, must_redial);
        if (must_redial) return;
    }
}

/* Open loop: start what is due, as far as connections are free; say when the next one is. */
static int64_t start_due(int64_t began, long long *planned) {
    int i = 0;
    for (;;) {
        int64_t due = began + (int64_t)(*planned * (SECOND / ask.rate)), now = now_ns();
        if (due >= over_at) return over_at;
        if (due > now) return due;
        while (i < ask.connections && links[i].is_busy) i++;
        if (i == ask.connections) return now + SECOND / 1000;
        begin(&links[i], due);
        ++*planned;
    }
}

static void run(void) {
    struct epoll_event events[BATCH];
    long long planned = 0;
    int64_t began = now_ns(), next = 0;
    counted_from = began + (int64_t)(ask.warm_s * SECOND);
    over_at = counted_from + (int64_t)(ask.seconds * SECOND);
    if (!ask.rate)
        for (int i = 0; i < ask.connections && now_ns() < over_at; i++) begin(&links[i], now_ns());
    for (;;) {
        int64_t now = now_ns();
        if ((now >= over_at && !in_flight) || now >= over_at + DRAIN_S * SECOND) break;
        next = ask.rate && now < over_at ? start_due(began, &planned) : now + SECOND / 20;
        int64_t wait = next > now_ns() ? next - now_ns() : 0;
        if (wait > SECOND / 20) wait = SECOND / 20;
        struct timespec pause = {0, wait < 0 ? 0 : wait};
        int n = epoll_pwait2(epoll, events, BATCH, &pause, NULL);
        for (int i = 0; i < n; i++) attend(events[i].data.ptr);
    }
    got.broken += in_flight;
}

static void show(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double cpu_s = use.ru_utime.tv_sec + use.ru_stime.tv_sec
                   + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    double seconds = (over_at - counted_from) / (double)SECOND;
    struct times *all[] = {&got.whole, &got.first, &got.gap};
    for (int i = 0; i < 3; i++)
        if (all[i]->n) qsort(all[i]->at, all[i]->n, sizeof(uint32_t), by_size);
    printf("{\"sent\":%lld,\"answered\":%lld,\"http_errors\":%lld,\"odd_status\":%d,"
           "\"broken\":%lld,\"no_done\":%lld,\"requests_per_s\":%.2f,", got.sent, got.answered,
           got.http_errors, got.odd_status, got.broken, got.no_done,
           got.in_window / seconds);
    printf("\"events\":%lld,\"events_per_s\":%.1f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,", got.events,
           got.window_events / seconds, share(&got.whole, .5), share(&got.whole, .99));
    printf("\"first_p50_ms\":%.4f,\"gap_p50_ms\":%.4f,\"gap_p99_ms\":%.4f,\"cpu_s\":%.4f}\n",
           share(&got.first, .5), share(&got.gap, .5), share(&got.gap, .99), cpu_s);
}

static int read_options(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "p:c:d:w:r:n:H:f:")) != -1) {
        if (option == 'p') ask.port = atoi(optarg);
        else if (option == 'c') ask.connections = atoi(optarg);
        else if (option == 'd') ask.seconds = atof(optarg);
        else if (option == 'w') ask.warm_s = atof(optarg);
        else if (option == 'r') ask.rate = atof(optarg);
        else if (option == 'n') ask.most = atoll(optarg);
        else if (option == 'f') ask.file = optarg;
        else if (option == 'H' && strlen(ask.headers) + strlen(optarg) < sizeof ask.headers - 3)
            strcat(strcat(ask.headers, optarg), "\r\n");
        else return -1;
    }
    return ask.port && ask.connections > 0 && ask.seconds > 0 && ask.file ? 0 : -1;
}

/* Write the one request that is sent again and again. */
static void prepare(void) {
    char *body = NULL;
    size_t len = 0;
    FILE *from = fopen(ask.file, "r"), *to = open_memstream(&body, &len);
    if (!from || !to) {
        perror(ask.file);
        exit(1);
    }
    for (int c; (c = getc(from)) != EOF;) putc(c, to);
    fclose(from);
    fclose(to);
    is_stream = memmem(body, len, "\"stream\":true", 13) != NULL;
    to = open_memstream(&request, &request_len);
    if (!to) abort();
    fprintf(to, "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
            "content-type: application/json\r\naccept: */*\r\n%scontent-length: %zu\r\n\r\n",
            ask.port, ask.headers, len);
    fwrite(body, 1, len, to);
    fclose(to);
    free(body);
}

int main(int argc, char **argv) {
    if (read_options(argc, argv)) return 2;
    prepare();
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    links = calloc(ask.connections, sizeof *links);
    for (int i = 0; i < ask.connections; i++) dial(&links[i]);
    usleep(20000);
    run();
    show();
    return 0;
}
