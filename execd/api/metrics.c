/*
 * metrics.c - /metrics: now, every second, and for Prometheus.
 *
 * Owns the open watches and the one timer that samples for all of them; it runs
 * only while there is a watch.
 */
#include <inttypes.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/metrics.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "proto/json.h"

#define WATCH_MS	 1000
#define METRICS_BODY_MAX 65536

static int sample(struct http_req *req, struct metrics_sample *ret, struct err *err)
{
	const struct execd *execd = http_app(req);
	int r = metrics_read(execd->metrics, ret);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "read the cgroup's and the system's figures") : 0;
}

static void put_sample(struct buf *out, const struct metrics_sample *s)
{
	struct jw w = JW_INIT(out);
	jw_obj_begin(&w);
	jw_key(&w, "cpu_count");
	jw_real(&w, s->cpu_count);
	jw_key(&w, "cpu_used_pct");
	jw_real(&w, s->cpu_used_pct);
	jw_key(&w, "mem_total_mib");
	jw_real(&w, s->mem_total_mib);
	jw_key(&w, "mem_used_mib");
	jw_real(&w, s->mem_used_mib);
	jw_kint(&w, "timestamp", (int64_t)s->timestamp_ms);
	jw_kint(&w, "cpu_usage_usec", (int64_t)s->cpu_usage_usec);
	jw_kstr(&w, "source", s->source);
	jw_obj_end(&w);
}

int metrics_get(struct http_req *req, struct err *err)
{
	_cleanup_buf_ struct buf body = BUF_INIT(METRICS_BODY_MAX);
	struct metrics_sample s;
	int r = sample(req, &s, err);
	if (r < 0)
		return r;
	put_sample(&body, &s);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

/* ---- GET /metrics/watch --------------------------------------------------- */

struct watch {
	struct list link;
	struct http_source source;
	struct http_req *req;
	bool due;
};

/* One sample a second serves every watch. */
static struct {
	struct execd *execd; /* NULL: not used yet */
	struct list all;
	struct loop_timer timer;
	struct buf event;
} watches;

static void watches_due(struct loop_timer *timer)
{
	struct metrics_sample s;
	buf_clear(&watches.event);
	if (metrics_read(watches.execd->metrics, &s) == 0) {
		(void)buf_puts(&watches.event, "data: ");
		put_sample(&watches.event, &s);
		(void)buf_puts(&watches.event, "\n\n");
	}
	list_foreach_safe (node, &watches.all) {
		struct watch *w = list_entry(node, struct watch, link);
		w->due = true;
		http_wake(w->req);
	}
	(void)loop_timer_set(timer->loop, timer, timer->due_ms + WATCH_MS, watches_due);
}

static int watch_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct watch *w = container_of(src, struct watch, source);
	if (!w->due || watches.event.len > room)
		return 0;
	w->due = false;
	return buf_append(out, watches.event.data, watches.event.len);
}

static void watch_stop(struct http_source *src, bool complete)
{
	struct watch *w = container_of(src, struct watch, source);
	(void)complete;
	list_del(&w->link);
	free(w);
	if (!list_empty(&watches.all))
		return;
	loop_timer_del(&watches.timer);
	buf_done(&watches.event);
}

static int watches_add(struct execd *execd, struct watch *w)
{
	if (!watches.execd) {
		watches.execd = execd;
		list_init(&watches.all);
	}
	if (!loop_timer_armed(&watches.timer)) {
		watches.event = BUF_INIT(METRICS_BODY_MAX);
		int r = loop_timer_set(execd->loop, &watches.timer, loop_now_ms(execd->loop) + WATCH_MS,
				       watches_due);
		if (r < 0)
			return r;
	}
	list_add_tail(&watches.all, &w->link);
	return 0;
}

int metrics_watch_get(struct http_req *req, struct err *err)
{
	struct watch *w = calloc(1, sizeof(*w));
	if (!w || watches_add(http_app(req), w) < 0) {
		free(w);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch metrics");
	}
	w->source = (struct http_source){.proceed = watch_proceed, .stop = watch_stop};
	w->req = req;
	(void)http_add_header(req, "Cache-Control", "no-cache");
	http_reply_source(req, 200, "text/event-stream", -1, &w->source);
	return 0;
}

/* ---- GET /metrics/prometheus ---------------------------------------------- */

/* Text exposition format 0.0.4. */
static void put_metric(struct buf *out, const char *name, const char *type, const char *help, double value)
{
	(void)buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, value);
}

static void put_container(struct buf *out, const struct metrics_sample *s)
{
	put_metric(out, "sandbox_cpu_count", "gauge", "Processors the sandbox may use.", s->cpu_count);
	put_metric(out, "sandbox_cpu_seconds_total", "counter", "Processor time used in the sandbox.",
		   (double)s->cpu_usage_usec / 1e6);
	put_metric(out, "sandbox_memory_used_bytes", "gauge", "Memory in use, without droppable page cache.",
		   (double)s->mem_used_bytes);
	put_metric(out, "sandbox_memory_limit_bytes", "gauge", "Memory the sandbox may use.",
		   (double)s->mem_total_bytes);
}

static void put_agent(struct buf *out, struct runs *runs)
{
	struct runs_counts counts;
	struct metrics_agent agent;
	metrics_agent(&agent);
	runs_count(runs, &counts);
	put_metric(out, "execd_resident_memory_bytes", "gauge", "Resident memory of the agent.",
		   (double)agent.resident_bytes);
	put_metric(out, "execd_cpu_seconds_total", "counter", "Processor time used by the agent.",
		   (double)agent.cpu_usec / 1e6);
	put_metric(out, "execd_open_fds", "gauge", "Descriptors the agent holds.", agent.fds);
	put_metric(out, "execd_runs_live", "gauge", "Executions that wait or run.", (double)counts.live);
	put_metric(out, "execd_runs_kept", "gauge", "Ended executions whose record is kept.",
		   (double)counts.ended);
	put_metric(out, "execd_runs_total", "counter", "Executions since the agent started.",
		   (double)counts.total);
}

int metrics_prometheus_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	_cleanup_buf_ struct buf body = BUF_INIT(METRICS_BODY_MAX);
	struct metrics_sample s;
	int r = sample(req, &s, err);
	if (r < 0)
		return r;
	put_container(&body, &s);
	put_agent(&body, execd->runs);
	http_reply_buf(req, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
	return 0;
}
