/*
 * mockvllm - a small, fast stand-in for a vLLM OpenAI server (one thread, epoll).
 *
 * Build:  gcc -O2 -Wall -Wextra -o mockvllm mockvllm.c
 * Run:    ./mockvllm [-p 9000] [-m mock]
 *
 *   GET  /v1/models, /health, /metrics, anything else   -> short 200 answers; /metrics also counts the
 *                                                          connections and the POSTs since the start, which
 *                                                          shows whether a proxy uses its connections again
 *   POST anything, no "stream":true in the body         -> one JSON completion (~500 bytes)
 *   POST anything,    "stream":true in the body         -> SSE, one HTTP chunk per token
 *
 * How a stream behaves is asked for inside the prompt text, so that it survives
 * every proxy:  "mock:n=64,d=5000,t=0,s=0"
 *   n  number of content chunks           (default 64)
 *   d  microseconds between two chunks    (default 0)
 *   t  microseconds before the first one; for a non-streamed answer, before the
 *      whole answer                       (default 0)
 *   s  1: chunks of all streams fall on the same multiples of d, as the decode
 *      steps of one engine do             (default 0)
 *
 * Every content chunk carries "~" and 16 hex digits: CLOCK_MONOTONIC nanoseconds
 * at the time it was written; a client on the same machine can tell its age.
 * The stream ends with a finish_reason chunk, a usage chunk where the body has "include_usage":true, and [DONE].
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

typedef struct conn {
    int fd, heap_pos;          /* heap_pos < 0: no timer */
    char *in; size_t in_len, in_cap;
    char *out; size_t out_off, out_len, out_cap;
    int want_out, streaming, sync, usage, closing;
    int left, total, first;
    uint64_t delay, due;
    int plain_later;           /* non-streamed answer waiting for its timer */
} conn;

typedef unsigned long long ull;
static int ep;
static ull connections, posts;
static const char *model = "mock";
static char plain[4096]; static size_t plain_len;
static conn **heap; static int heap_len, heap_cap;

static uint64_t now_ns(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void *have(void *p) {
    if (!p) { fprintf(stderr, "mockvllm: memory\n"); exit(1); }
    return p;
}

/* ---- timers: binary heap on due ---- */
static void hset(int i, conn *c) { heap[i] = c; c->heap_pos = i; }
static void hup(int i) {
    conn *c = heap[i];
    while (i > 0 && heap[(i - 1) / 2]->due > c->due) { hset(i, heap[(i - 1) / 2]); i = (i - 1) / 2; }
    hset(i, c);
}
static void hdown(int i) {
    conn *c = heap[i];
    for (;;) {
        int k = 2 * i + 1;
        if (k >= heap_len) break;
        if (k + 1 < heap_len && heap[k + 1]->due < heap[k]->due) k++;
        if (heap[k]->due >= c->due) break;
        hset(i, heap[k]); i = k;
    }
    hset(i, c);
}
static void timer_set(conn *c, uint64_t due) {
    c->due = due;
    if (c->heap_pos < 0) {
        if (heap_len == heap_cap) { heap_cap = heap_cap ? heap_cap * 2 : 256; heap = have(realloc(heap, heap_cap * sizeof *heap)); }
        hset(heap_len, c); heap_len++;
    }
    hup(c->heap_pos); hdown(c->heap_pos);
}
static void timer_del(conn *c) {
    int i = c->heap_pos;
    if (i < 0) return;
    c->heap_pos = -1;
    conn *last = heap[--heap_len];
    if (last == c) return;
    hset(i, last); hup(i); hdown(last->heap_pos);
}

static void conn_close(conn *c) {
    timer_del(c); close(c->fd); free(c->in); free(c->out); free(c);
}

/* ---- output ---- */
static void out_add(conn *c, const char *p, size_t n) {
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2 + 1024; c->out = have(realloc(c->out, c->out_cap));
    }
    memcpy(c->out + c->out_len, p, n); c->out_len += n;
}
static int out_flush(conn *c) {            /* -1: connection gone */
    while (c->out_off < c->out_len) {
        ssize_t w = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (w > 0) { c->out_off += w; continue; }
        if (w < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!c->want_out) {
                struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
                epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->want_out = 1;
            }
            return 0;
        }
        return -1;
    }
    c->out_off = c->out_len = 0;
    if (c->want_out) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->want_out = 0;
    }
    return 0;
}
static void add_chunk(conn *c, const char *sse, int n) {
    char h[16]; int k = snprintf(h, sizeof h, "%x\r\n", n);
    out_add(c, h, k); out_add(c, sse, n); out_add(c, "\r\n", 2);
}

#define HEAD "data: {\"id\":\"chatcmpl-5f1c2d3e4a5b6c7d8e9f0a1b2c3d4e5f\",\"object\":\"chat.completion.chunk\"," \
             "\"created\":1735689600,\"model\":\"%s\","

static void stream_step(conn *c) {
    char b[1024]; int n;
    if (c->first) {
        n = snprintf(b, sizeof b, HEAD "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                     "\"logprobs\":null,\"finish_reason\":null}]}\n\n", model);
        add_chunk(c, b, n); c->first = 0;
    }
    if (c->left > 0) {
        c->left--;
        n = snprintf(b, sizeof b, HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ~%016llx\"},"
                     "\"logprobs\":null,\"finish_reason\":null}]}\n\n", model, (unsigned long long)now_ns());
        add_chunk(c, b, n);
    }
    if (c->left == 0) {
        n = snprintf(b, sizeof b, HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},"
                     "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]}\n\n", model);
        add_chunk(c, b, n);
        if (c->usage) {
            n = snprintf(b, sizeof b, HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":240,\"total_tokens\":%d,"
                         "\"completion_tokens\":%d}}\n\n", model, 240 + c->total, c->total);
            add_chunk(c, b, n);
        }
        add_chunk(c, "data: [DONE]\n\n", 14);
        out_add(c, "0\r\n\r\n", 5);
        c->streaming = 0;
    }
}

/* ---- requests ---- */
static long opt(const char *p, const char *end, const char *name, long dflt) {
    size_t k = strlen(name);
    for (; p + k < end && *p != '"' && *p != ' '; p++)
        if ((p[-1] == ',' || p[-1] == ':') && !memcmp(p, name, k) && p[k] == '=') return strtol(p + k + 1, NULL, 10);
    return dflt;
}
static void answer(conn *c, int post, const char *path, const char *body, size_t n) {
    char b[1024], t[512];
    if (!post) {
        int k;
        if (!strncmp(path, "/v1/models", 10))
            k = snprintf(t, sizeof t, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1735689600,"
                         "\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":32768}]}", model, model);
        else if (!strncmp(path, "/metrics", 8))
            k = snprintf(t, sizeof t, "vllm:num_requests_running{model_name=\"%s\"} 0.0\nvllm:num_requests_waiting{model_name=\"%s\"} 0.0\n"
                         "mock_connections_total %llu\nmock_posts_total %llu\n", model, model, connections, posts);
        else k = snprintf(t, sizeof t, "{}");
        int m = snprintf(b, sizeof b, "HTTP/1.1 200 OK\r\nserver: mockvllm\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s",
                         strncmp(path, "/metrics", 8) ? "application/json" : "text/plain", k, t);
        out_add(c, b, m); return;
    }
    posts++;
    const char *o = memmem(body, n, "mock:", 5), *e = body + n;
    long cnt = 64, d = 0, first = 0, s = 0;
    if (o) { o += 5; cnt = opt(o, e, "n", 64); d = opt(o, e, "d", 0); first = opt(o, e, "t", 0); s = opt(o, e, "s", 0); }
    uint64_t now = now_ns();
    int stream = memmem(body, n, "\"stream\":true", 13) || memmem(body, n, "\"stream\": true", 14);
    if (!stream) {
        if (first > 0) { c->plain_later = 1; timer_set(c, now + first * 1000ull); }
        else out_add(c, plain, plain_len);
        return;
    }
    const char *h = "HTTP/1.1 200 OK\r\nserver: mockvllm\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                    "transfer-encoding: chunked\r\n\r\n";
    out_add(c, h, strlen(h));
    c->usage = memmem(body, n, "\"include_usage\":true", 20) || memmem(body, n, "\"include_usage\": true", 21);
    c->streaming = 1; c->first = 1; c->left = c->total = cnt; c->delay = d * 1000ull; c->sync = s && d;
    uint64_t due = now + first * 1000ull;
    if (c->sync) due += c->delay - due % c->delay;
    timer_set(c, due);
}
static const char *find_header(const char *h, const char *end, const char *name) {
    size_t k = strlen(name);
    for (const char *p = h; p && p < end; p = memmem(p, end - p, "\r\n", 2), p = p ? p + 2 : NULL)
        if ((size_t)(end - p) > k && !strncasecmp(p, name, k)) return p + k;
    return NULL;
}
static int finish(conn *c) {               /* -1: close */
    if (out_flush(c) < 0) return -1;
    return c->closing && !c->out_len && !c->streaming && !c->plain_later ? -1 : 0;
}
static int on_input(conn *c) {             /* -1: close */
    for (;;) {
        if (c->in_cap - c->in_len < 16384) { c->in_cap = c->in_cap * 2 + 65536; c->in = have(realloc(c->in, c->in_cap)); }
        ssize_t r = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
        if (r == 0) return -1;
        if (r < 0) { if (errno == EAGAIN) break; if (errno == EINTR) continue; return -1; }
        c->in_len += r;
        if ((size_t)r < 16384) break;
    }
    while (c->in_len && !c->streaming && !c->plain_later) {
        char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!e) return c->in_len > 65536 ? -1 : 0;
        char *body = e + 4; size_t have = c->in_len - (body - c->in), need = 0;
        const char *v = find_header(c->in, e + 2, "content-length:");
        if (v) { need = strtoul(v, NULL, 10); if (have < need) return 0; }
        else if (find_header(c->in, e + 2, "transfer-encoding:")) {   /* take the raw chunks as the body */
            char *z = have >= 5 ? memmem(body, have, "0\r\n\r\n", 5) : NULL;
            if (!z) return 0;
            need = z + 5 - body;
        }
        const char *k = find_header(c->in, e + 2, "connection:");
        if (k && !strncasecmp(k + strspn(k, " "), "close", 5)) c->closing = 1;
        char *sp = memchr(c->in, ' ', e - c->in);
        if (!sp) return -1;
        answer(c, c->in[0] == 'P', sp + 1, body, need);
        size_t used = body + need - c->in;
        memmove(c->in, c->in + used, c->in_len - used); c->in_len -= used;
    }
    return finish(c);
}

int main(int argc, char **argv) {
    int port = 9000, o;
    while ((o = getopt(argc, argv, "p:m:")) != -1) {
        if (o == 'p') port = atoi(optarg);
        else if (o == 'm') model = optarg;
        else { fprintf(stderr, "usage: mockvllm [-p port] [-m model]\n"); return 2; }
    }
    signal(SIGPIPE, SIG_IGN);
    char body[2048];
    int n = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-5f1c2d3e4a5b6c7d8e9f0a1b2c3d4e5f\",\"object\":\"chat.completion\",\"created\":1735689600,"
        "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps "
        "over the lazy dog, then rests.\",\"refusal\":null,\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\","
        "\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":240,\"total_tokens\":254,\"completion_tokens\":14,"
        "\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"kv_transfer_params\":null}", model);
    plain_len = snprintf(plain, sizeof plain, "HTTP/1.1 200 OK\r\nserver: mockvllm\r\ncontent-type: application/json\r\n"
                         "content-length: %d\r\n\r\n%s", n, body);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(ls, (struct sockaddr *)&a, sizeof a) || listen(ls, 4096)) { perror("bind/listen"); return 1; }
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, ev[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    fprintf(stderr, "mockvllm on 127.0.0.1:%d, answer body %d bytes\n", port, n);
    for (;;) {
        struct timespec ts = {0, 0}, *tp = NULL;
        if (heap_len) {
            uint64_t now = now_ns(), due = heap[0]->due, left = due > now ? due - now : 0;
            ts.tv_sec = left / 1000000000ull; ts.tv_nsec = left % 1000000000ull; tp = &ts;
        }
        int k = epoll_pwait2(ep, ev, 512, tp, NULL);
        for (int i = 0; i < k; i++) {
            conn *c = ev[i].data.ptr;
            if (!c) {
                for (;;) {
                    int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (fd < 0) break;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = have(calloc(1, sizeof *c)); connections++; c->fd = fd; c->heap_pos = -1;
                    e.events = EPOLLIN; e.data.ptr = c;
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            int bad = 0;
            if (ev[i].events & EPOLLOUT) bad = finish(c) < 0;
            if (!bad && (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) bad = on_input(c) < 0;
            if (bad) {
                for (int j = i + 1; j < k; j++) if (ev[j].data.ptr == c) ev[j].data.ptr = NULL;
                conn_close(c);
            }
        }
        /* everything due now, each stream at most once per turn */
        uint64_t now = now_ns();
        for (int m = heap_len; m > 0 && heap_len && heap[0]->due <= now; m--) {
            conn *c = heap[0];
            if (c->plain_later) { timer_del(c); c->plain_later = 0; out_add(c, plain, plain_len); }
            else {
                stream_step(c);
                if (c->streaming) timer_set(c, c->delay ? c->due + c->delay : now + 1); else timer_del(c);
            }
            if (finish(c) < 0) conn_close(c);
        }
    }
}
