/*
 * loadgen - HTTP/1.1 load for OpenAI-compatible servers on this machine (one thread, epoll).
 *
 * Build:  gcc -O2 -Wall -Wextra -o loadgen loadgen.c -lm
 * Run:    ./loadgen -p PORT [-c conns] [-t seconds] [-w warmup seconds] [-N requests] [-r requests/s]
 *                   [-b prompt bytes] [-S "mock:..."] [-s] [-k key] [-M model] [-P path] [-n max_tokens]
 *                   [-j ',"field":value'] [-H "Name: value"]...
 *
 *   -r 0 (default): closed loop, every connection sends its next request as soon as the last is answered.
 *   -r N: open loop at N requests/s; latency counts from the time a request was due, so a stall is not hidden.
 *   -N   : closed loop of exactly N requests, no warm-up; "secs" is then the time until the last was answered.
 *   -s   : "stream":true; then "ttft" is the time to the first SSE event with content, and chunk figures are given.
 *          A stream counts as answered only if it ends with "data: [DONE]".
 *   -S   : text put at the start of the prompt (mockvllm reads its orders there).
 *   -j   : more fields for the request body, beginning with a comma.
 * Only 127.0.0.1 is ever contacted. Prints one line of JSON. Times are microseconds, "secs" seconds.
 * With mockvllm behind, every content chunk tells when it was written: "relay" is its age on arrival.
 *
 * "all_*" counts from the first request on, warm-up included: with it goes the CPU time that the caller of
 * this program takes from /proc. The other counts and all percentiles belong to the measured window.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ull;
enum { IDLE, SENDING, HEAD, BODY };
#define DONE_MARK "data: [DONE]\n\n"
enum { DONE_LEN = sizeof DONE_MARK - 1 };

typedef struct {
    int fd, st, status, chunked, will_close, got_first;
    int64_t need;                    /* body bytes left, or -1: until close */
    int ck;                          /* chunk decoder: 0 size line, 1 data, 2 CRLF after data, 3 trailer */
    uint64_t ck_left; int nl;        /* nl: newlines seen in a row in decoded body */
    size_t off; uint64_t t0;
    char h[8192]; size_t hl;
    char mk[18]; int mkl;            /* marker being collected, -1: none */
    char tail[DONE_LEN];             /* the last bytes of the decoded body */
    uint64_t events;
} conn;

typedef struct { float *v; size_t n, cap; } samples;

static int ep, port, stream, nc = 1;
static conn *cs;
static char *req; static size_t req_len;
static samples lat, ttft, relay;
static uint64_t began, measure_from, t_end, last_answer;
static uint64_t all_ok, all_bad, ok, bad, reconnects, chunks, chunks_w, bytes_w, reads_w;
static uint64_t budget, asked, answered;               /* -N: how many to send in all; 0 is no bound */
static int first_status, bad_status; static char bad_body[200];
static conn **idle; static int nidle;
static uint64_t due_next, gap, *queue; static size_t qh, qt, qcap = 1 << 20;

static void die(const char *what) { fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno)); exit(1); }
static void *have(void *p) { if (!p) die("memory"); return p; }
static uint64_t now_ns(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}
static int inside(uint64_t t) { return t >= measure_from && t <= t_end; }

/* ---- percentiles ---- */
static void put(samples *s, double x) {
    if (s->n == s->cap) { s->cap = s->cap ? s->cap * 2 : 65536; s->v = have(realloc(s->v, s->cap * sizeof *s->v)); }
    s->v[s->n++] = (float)x;
}
static int cmp(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b; return (x > y) - (x < y);
}
static void sort(samples *s) { if (s->n) qsort(s->v, s->n, sizeof *s->v, cmp); }
static double q(samples *s, double p) { return s->n ? s->v[(size_t)fmin(s->n - 1, floor(p * s->n))] : 0; }

/* ---- connections ---- */
static void dial(conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    c->st = IDLE;
}
static void redial(conn *c) { close(c->fd); reconnects++; dial(c); }
static void want(conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void pump(conn *c) {
    while (c->off < req_len) {
        ssize_t w = send(c->fd, req + c->off, req_len - c->off, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w > 0) { c->off += w; continue; }
        if (w < 0 && errno == EINTR) continue;
        if (w < 0 && errno == EAGAIN) { want(c, EPOLLIN | EPOLLOUT); return; }
        redial(c); c->off = 0; c->st = SENDING;
    }
    if (c->st == SENDING) c->st = HEAD;
}
static void start(conn *c, uint64_t t0) {
    c->t0 = t0; c->off = 0; c->hl = 0; c->got_first = 0; c->st = SENDING; c->nl = 0; c->mkl = -1; c->events = 0;
    memset(c->tail, 0, sizeof c->tail);
    pump(c);
}
static void next(conn *c) {
    if (budget && asked >= budget) return;
    asked++; start(c, now_ns());
}
static void done(conn *c, int good) {
    uint64_t n = now_ns();
    if (!first_status) first_status = c->status;
    answered++;
    good = good && c->status / 100 == 2 && (!stream || !memcmp(c->tail, DONE_MARK, DONE_LEN));
    if (good) {
        all_ok++; last_answer = n;
        if (c->t0 >= measure_from && n <= t_end) { ok++; put(&lat, (n - c->t0) / 1e3); }
    } else {
        all_bad++; if (n >= measure_from) bad++;
        if (!bad_status) bad_status = c->status;
    }
    if (!good || c->will_close) redial(c);
    c->st = IDLE;
    if (n >= t_end) return;
    if (!gap) next(c);
    else if (qh != qt) { uint64_t t = queue[qh % qcap]; qh++; start(c, t); }
    else idle[nidle++] = c;
}

/* ---- answers ---- */
static void content(conn *c, uint64_t t) {
    if (c->got_first) return;
    c->got_first = 1; if (c->t0 >= measure_from && t <= t_end) put(&ttft, (t - c->t0) / 1e3);
}
static void remember(conn *c, const char *p, size_t n) {
    if (n >= DONE_LEN) { memcpy(c->tail, p + n - DONE_LEN, DONE_LEN); return; }
    memmove(c->tail, c->tail + n, DONE_LEN - n); memcpy(c->tail + DONE_LEN - n, p, n);
}
/* decoded body bytes */
static void body(conn *c, const char *p, size_t n, uint64_t t) {
    if (inside(t)) bytes_w += n;
    if (c->status / 100 != 2 && !*bad_body) snprintf(bad_body, sizeof bad_body, "%.*s", (int)n, p);
    if (!stream) return;
    remember(c, p, n);
    const char *e = p + n;
    while (p < e) {
        if (c->mkl >= 0) {
            while (p < e && c->mkl < 16) c->mk[c->mkl++] = *p++;
            if (c->mkl == 16) {
                c->mk[16] = 0; char *z; uint64_t w = strtoull(c->mk, &z, 16);
                if (z == c->mk + 16 && t >= w) {
                    content(c, t);
                    if (inside(t)) put(&relay, (t - w) / 1e3);
                }
                c->mkl = -1;
            }
            continue;
        }
        char ch = *p;
        if (ch == '\n') { if (++c->nl == 2) { c->events++; chunks++; if (inside(t)) chunks_w++; } p++; continue; }
        if (ch == '\r') { p++; continue; }
        c->nl = 0;
        const char *x = memchr(p, '~', e - p), *y = memchr(p, '\n', (x ? x : e) - p);
        if (y) p = y; else if (x) { c->mkl = 0; p = x + 1; } else p = e;
    }
    if (c->events > 1) content(c, t);          /* a real engine writes no marks: the second event has the content */
}
static const char *hdr(const char *h, const char *name) {
    size_t k = strlen(name);
    for (const char *p = h; p; p = strstr(p, "\r\n"), p = p ? p + 2 : NULL) if (!strncasecmp(p, name, k)) return p + k;
    return NULL;
}
/* the head of an answer: how many of the n bytes belong to it, 0 while it is not whole, -1 on nonsense */
static ssize_t head(conn *c, const char *p, size_t n) {
    size_t k = n, old = c->hl;
    if (c->hl + k >= sizeof c->h) k = sizeof c->h - 1 - c->hl;
    memcpy(c->h + c->hl, p, k); c->hl += k; c->h[c->hl] = 0;
    char *z = strstr(c->h, "\r\n\r\n");
    if (!z) return c->hl >= sizeof c->h - 1 ? -1 : 0;
    *z = 0; c->status = atoi(c->h + 9);
    const char *v;
    c->chunked = (v = hdr(c->h, "transfer-encoding:")) && strcasestr(v, "chunked");
    c->will_close = (v = hdr(c->h, "connection:")) && !strncasecmp(v + strspn(v, " "), "close", 5);
    c->need = -1; if (!c->chunked && (v = hdr(c->h, "content-length:"))) c->need = atoll(v);
    c->ck = 0; c->ck_left = 0; c->st = BODY; c->hl = 0;
    return (z + 4 - c->h) - old;
}
static int chunked(conn *c, const char *p, const char *e, uint64_t t) {
    while (p < e) {
        if (c->ck == 1) {
            size_t k = e - p; if (k > c->ck_left) k = c->ck_left;
            body(c, p, k, t); p += k; c->ck_left -= k; if (!c->ck_left) c->ck = 2;
        } else if (c->ck == 2) { if (*p++ == '\n') c->ck = 0; }
        else {                                             /* 0 or 3: a line */
            char ch = *p++;
            if (ch != '\n') { if (ch != '\r' && c->hl < 64) c->h[c->hl++] = ch; continue; }
            c->h[c->hl] = 0;
            if (c->ck == 3) { if (!c->hl) return 1; c->hl = 0; continue; }
            c->ck_left = strtoull(c->h, NULL, 16); c->hl = 0; c->ck = c->ck_left ? 1 : 3;
        }
    }
    return 0;
}
/* feed bytes; returns 1 when the answer is complete, -1 on nonsense */
static int feed(conn *c, const char *p, size_t n, uint64_t t) {
    const char *e = p + n;
    if (c->st == HEAD) {
        ssize_t k = head(c, p, n);
        if (k <= 0) return (int)k;
        p += k;
        if (c->need == 0) return 1;
    }
    if (c->chunked) return chunked(c, p, e, t);
    size_t k = e - p; if (c->need >= 0 && (int64_t)k > c->need) k = c->need;
    body(c, p, k, t);
    if (c->need >= 0) { c->need -= k; return c->need == 0; }
    return 0;
}
static void readable(conn *c) {
    static char buf[262144];
    ssize_t r = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
    if (r < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (r <= 0) {
        if (c->st == IDLE) redial(c);
        else if (c->st == BODY && c->need < 0 && !c->chunked) { c->will_close = 1; done(c, 1); }
        else if (c->st == HEAD && !c->hl) { uint64_t t0 = c->t0; redial(c); start(c, t0); }   /* keep-alive race */
        else { if (c->st != BODY) c->status = 0; done(c, 0); }
        return;
    }
    if (c->st == IDLE) { redial(c); return; }
    if (c->st == SENDING) c->st = HEAD;
    uint64_t rt = now_ns(); if (inside(rt)) reads_w++;
    int f = feed(c, buf, r, rt);
    if (f) done(c, f > 0);
}

/* ---- the run ---- */
static void make_request(const char *key, const char *model, const char *path, const char *order, const char *more,
                         const char *extra, int prompt_bytes, int max_tokens) {
    static const char *words[] = {"Please ", "summarise ", "the ", "following ", "report ", "for ", "a ", "busy ",
                                  "engineer:\\n", "latency, ", "cost ", "and ", "risk. "};
    char *b = have(malloc(prompt_bytes + strlen(model) + strlen(order) + strlen(more) + 4096));
    int n = sprintf(b, "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a careful assistant.\"},"
                    "{\"role\":\"user\",\"content\":\"%s%s", model, order, *order ? " " : "");
    for (int i = 0, w = 0; w < prompt_bytes; i = (i + 7) % 13) {
        int k = strlen(words[i]); memcpy(b + n, words[i], k); n += k; w += k;
    }
    n += sprintf(b + n, "\"}],\"temperature\":0.7,\"max_tokens\":%d%s%s}", max_tokens,
                 stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "", more);
    req = have(malloc(n + strlen(path) + strlen(key) + strlen(extra) + 1024));
    req_len = sprintf(req, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                      "Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: loadgen/1\r\n%sContent-Length: %d\r\n\r\n",
                      path, port, key, extra, n);
    memcpy(req + req_len, b, n); req_len += n; free(b);
}
static void loop(void) {
    struct epoll_event ev[512];
    uint64_t hard_end = t_end + 300000000ull;            /* closing answers may trickle in, not counted */
    for (;;) {
        uint64_t t = now_ns();
        if (t >= t_end && (t >= hard_end || !gap)) return;
        if (budget && answered >= budget) return;
        while (gap && due_next <= t && due_next < t_end) {
            if (nidle) start(idle[--nidle], due_next);
            else if (qt - qh < qcap) { queue[qt % qcap] = due_next; qt++; }
            due_next += gap;
        }
        uint64_t until = gap && due_next < t_end ? due_next : (t < t_end ? t_end : hard_end), left = until > t ? until - t : 0;
        struct timespec ts = {left / 1000000000ull, left % 1000000000ull};
        int k = epoll_pwait2(ep, ev, 512, &ts, NULL);
        for (int i = 0; i < k; i++) {
            conn *c = ev[i].data.ptr;
            if (ev[i].events & EPOLLOUT) { pump(c); if (c->off == req_len) want(c, EPOLLIN); }
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
}
static void print_string(const char *name, const char *s) {
    printf(",\"%s\":\"", name);
    for (; *s; s++) {
        unsigned char ch = *s;
        if (ch == '"' || ch == '\\') printf("\\%c", ch); else if (ch < 32 || ch > 126) putchar('?'); else putchar(ch);
    }
    putchar('"');
}
static void report(double window) {
    int inflight = 0;
    for (int i = 0; i < nc; i++) inflight += cs[i].st != IDLE;
    sort(&lat); sort(&ttft); sort(&relay);
    printf("{\"all_ok\":%llu,\"all_bad\":%llu,\"all_chunks\":%llu,\"ok\":%llu,\"bad\":%llu,\"status\":%d,\"bad_status\":%d",
           (ull)all_ok, (ull)all_bad, (ull)chunks, (ull)ok, (ull)bad, first_status, bad_status);
    print_string("bad_body", bad_body);
    printf(",\"reconnects\":%llu,\"inflight\":%d,\"queued\":%zu,\"secs\":%.4f,\"rps\":%.1f", (ull)reconnects, inflight, qt - qh,
           window, ok / window);
    printf(",\"lat_p50\":%.1f,\"lat_p90\":%.1f,\"lat_p99\":%.1f,\"ttft_p50\":%.1f,\"ttft_p99\":%.1f",
           q(&lat, .5), q(&lat, .9), q(&lat, .99), q(&ttft, .5), q(&ttft, .99));
    printf(",\"chunks\":%llu,\"chunks_s\":%.1f,\"relay_p50\":%.1f,\"relay_p99\":%.1f,\"reads\":%llu,\"body_bytes\":%llu,\"req_bytes\":%zu}\n",
           (ull)chunks_w, chunks_w / window, q(&relay, .5), q(&relay, .99), (ull)reads_w, (ull)bytes_w, req_len);
}

int main(int argc, char **argv) {
    double secs = 5, warm = 1, rate = 0; int o, prompt_bytes = 600, max_tokens = 256;
    const char *key = "sk-bench", *model = "mock", *path = "/v1/chat/completions", *order = "", *more = "";
    char extra[2048] = "";
    while ((o = getopt(argc, argv, "p:c:t:w:r:b:S:sk:M:P:H:n:j:N:")) != -1) switch (o) {
        case 'p': port = atoi(optarg); break; case 'c': nc = atoi(optarg); break;
        case 't': secs = atof(optarg); break; case 'w': warm = atof(optarg); break;
        case 'r': rate = atof(optarg); break; case 'b': prompt_bytes = atoi(optarg); break;
        case 'S': order = optarg; break; case 's': stream = 1; break; case 'k': key = optarg; break;
        case 'M': model = optarg; break; case 'P': path = optarg; break; case 'n': max_tokens = atoi(optarg); break;
        case 'j': more = optarg; break; case 'N': budget = strtoull(optarg, NULL, 10); break;
        case 'H': strncat(extra, optarg, sizeof extra - strlen(extra) - 3); strcat(extra, "\r\n"); break;
        default: return 2;
    }
    if (port <= 0 || nc <= 0 || prompt_bytes < 0 || secs <= 0) {
        fprintf(stderr, "loadgen: -p PORT is needed; connections and seconds are above 0\n"); return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (budget) { warm = 0; rate = 0; }
    make_request(key, model, path, order, more, extra, prompt_bytes, max_tokens);
    ep = epoll_create1(0); cs = have(calloc(nc, sizeof *cs)); idle = have(calloc(nc, sizeof *idle));
    queue = have(malloc(qcap * sizeof *queue));
    for (int i = 0; i < nc; i++) dial(&cs[i]);
    began = now_ns(); measure_from = began + warm * 1e9; t_end = measure_from + secs * 1e9;
    if (rate > 0) { gap = 1e9 / rate; due_next = began + gap; }
    for (int i = 0; i < nc; i++) { if (gap) idle[nidle++] = &cs[i]; else next(&cs[i]); }
    loop();
    report(budget && answered >= budget ? (last_answer - began) / 1e9 : secs);
    return 0;
}
