/* slowproxy: a TCP proxy that is as far away and as narrow as it is told to be, and counts what passes.
 *
 *   cc -O2 -pthread -o slowproxy slowproxy.c && ./slowproxy HOST PORT DELAY_MS BYTES_PER_SECOND
 *
 * Listens on a free port of 127.0.0.1 and prints it. Every answer's first byte comes DELAY_MS late: an answer begins where
 * the server speaks after the client did, so a `100 Continue` costs a round trip of its own, as it does on a network.
 * Each direction of each connection passes at most BYTES_PER_SECOND (0: as many as can be). On SIGUSR1 it prints one line of
 * JSON: connections, requests by method, bytes up and down; on SIGTERM or SIGINT it does so and ends.
 *
 * A thread for each direction, and splice() through a pipe: the bytes never enter this process, so that its own cost stays
 * small beside a client's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIPE_SIZE (1 << 20)
#define SLICES_PER_SECOND 100 /* with a cap, the bytes pass in slices of so long */

static const char *const methods[] = {"GET ", "HEAD ", "PUT ", "POST ", "DELETE "};
enum { METHODS = sizeof methods / sizeof *methods };

static atomic_llong counts[METHODS], bytes_up, bytes_down, connections;
static long delay_ms;
static long long cap;
static struct addrinfo *target;

struct pair {
    int client, server;
    atomic_int client_spoke; /* since the server last did */
    atomic_int users;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void wait_for(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) && errno == EINTR) {}
}

static void count_request(int fd) {
    char start[8] = "";
    if (recv(fd, start, sizeof start - 1, MSG_PEEK) <= 0) return;
    for (int i = 0; i < METHODS; i++)
        if (!strncmp(start, methods[i], strlen(methods[i]))) { counts[i]++; return; }
}

/* Move what arrives at `from` to `to` until it ends. */
static void move(struct pair *p, int from, int to, int upward) {
    int ends[2];
    if (pipe(ends)) return;
    fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE);
    size_t most = cap && cap / SLICES_PER_SECOND < PIPE_SIZE ? (size_t)(cap / SLICES_PER_SECOND) : PIPE_SIZE;
    if (!most) most = 1;
    double free_at = 0; /* when the bytes before have passed */
    for (;;) {
        char byte;
        if (recv(from, &byte, 1, MSG_PEEK) <= 0) break;
        if (upward) {
            if (!atomic_exchange(&p->client_spoke, 1)) count_request(from);
        } else if (atomic_exchange(&p->client_spoke, 0) && delay_ms) {
            wait_for((double)delay_ms / 1e3);
        }
        ssize_t got = splice(from, NULL, ends[1], NULL, most, SPLICE_F_MOVE);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        if (cap) {
            double t = now();
            if (free_at < t - 1.0 / SLICES_PER_SECOND) free_at = t; /* an idle connection saves nothing up */
            free_at += (double)got / (double)cap;
            if (free_at > t) wait_for(free_at - t);
        }
        atomic_fetch_add(upward ? &bytes_up : &bytes_down, got);
        while (got > 0) {
            ssize_t sent = splice(ends[0], NULL, to, NULL, (size_t)got, SPLICE_F_MOVE);
            if (sent < 0 && errno == EINTR) continue;
            if (sent <= 0) goto done;
            got -= sent;
        }
    }
done:
    close(ends[0]);
    close(ends[1]);
    shutdown(to, SHUT_WR);
    shutdown(from, SHUT_RD);
}

static void leave(struct pair *p) {
    if (atomic_fetch_sub(&p->users, 1) > 1) return;
    close(p->client);
    close(p->server);
    free(p);
}

static void *upward(void *arg) {
    struct pair *p = arg;
    move(p, p->client, p->server, 1);
    leave(p);
    return NULL;
}

static void *downward(void *arg) {
    struct pair *p = arg;
    move(p, p->server, p->client, 0);
    leave(p);
    return NULL;
}

static void *accept_all(void *arg) {
    int listener = *(int *)arg, one = 1;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 1 << 16);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        int server = socket(target->ai_family, SOCK_STREAM, 0);
        if (server < 0 || connect(server, target->ai_addr, target->ai_addrlen)) {
            if (server >= 0) close(server);
            close(client);
            continue;
        }
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct pair *p = calloc(1, sizeof *p);
        *p = (struct pair){.client = client, .server = server, .users = 2};
        connections++;
        pthread_t t;
        if (pthread_create(&t, &detached, upward, p)) leave(p);
        if (pthread_create(&t, &detached, downward, p)) leave(p);
    }
    return NULL;
}

static void print_counts(void) {
    printf("{\"connections\": %lld, \"bytes_up\": %lld, \"bytes_down\": %lld, \"requests\": {",
           (long long)connections, (long long)bytes_up, (long long)bytes_down);
    const char *comma = "";
    for (int i = 0; i < METHODS; i++) {
        printf("%s\"%.*s\": %lld", comma, (int)strlen(methods[i]) - 1, methods[i], (long long)counts[i]);
        comma = ", ";
    }
    printf("}}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: slowproxy HOST PORT DELAY_MS BYTES_PER_SECOND\n"); return 2; }
    delay_ms = atol(argv[3]);
    cap = atoll(argv[4]);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(argv[1], argv[2], &hints, &target)) { fprintf(stderr, "slowproxy: no such host\n"); return 1; }
    signal(SIGPIPE, SIG_IGN);
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* all threads; main waits for them below */
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&address, &length)) { perror("slowproxy"); return 1; }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    pthread_t acceptor;
    if (pthread_create(&acceptor, NULL, accept_all, &listener)) return 1;
    int signal_number;
    do {
        sigwait(&ends, &signal_number);
        print_counts();
    } while (signal_number == SIGUSR1);
    return 0;
}
