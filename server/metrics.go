package server

import (
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sestina/batch"
	"sestina/engine"
)

// Metrics are the numbers of /metrics, under vLLM's names and types where it has
// one, so that dashboards and the Gateway API's endpoint picker work unchanged;
// sestina_* are our own. Gauges and counters are read from the engine's snapshot
// when somebody scrapes; histograms are observed as things happen.
//
// The engine must be told before it starts: make Metrics first, give Observer to
// the engine's options, then Metrics to the server's Config.
type Metrics struct {
	registry *prometheus.Registry
	taken    atomic.Bool

	ttft, itl, tpot, e2e             prometheus.Histogram
	queue, prefill, decode, inferred prometheus.Histogram
	promptTokens, outputTokens       prometheus.Histogram
	stepTokens, stepSeconds          prometheus.Histogram
}

// NewMetrics makes metrics in a registry of their own.
func NewMetrics() *Metrics {
	h := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	latency := []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	gap := []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	whole := []float64{0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	tokens := []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000}
	rows := []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
	step := []float64{1e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
	return &Metrics{
		registry:     prometheus.NewRegistry(),
		ttft:         h("vllm:time_to_first_token_seconds", "Time from submission to the first token.", latency),
		itl:          h("vllm:inter_token_latency_seconds", "Time between tokens of a choice.", gap),
		tpot:         h("vllm:request_time_per_output_token_seconds", "Mean time per output token after the first, per request.", gap),
		e2e:          h("vllm:e2e_request_latency_seconds", "Time from submission to the end.", whole),
		queue:        h("vllm:request_queue_time_seconds", "Time from submission to the first step.", whole),
		prefill:      h("vllm:request_prefill_time_seconds", "Time from the first step to the first token.", whole),
		decode:       h("vllm:request_decode_time_seconds", "Time from the first token to the last.", whole),
		inferred:     h("vllm:request_inference_time_seconds", "Time from the first step to the last token.", whole),
		promptTokens: h("vllm:request_prompt_tokens", "Prompt tokens of a request.", tokens),
		outputTokens: h("vllm:request_generation_tokens", "Output tokens of a request.", tokens),
		stepTokens:   h("vllm:iteration_tokens_total", "Tokens computed by a step.", rows),
		stepSeconds:  h("sestina_step_seconds", "Time of a step, schedule to deliver.", step),
	}
}

// Observer is what the engine reports to.
func (m *Metrics) Observer() *engine.Observer {
	return &engine.Observer{
		Step: func(s engine.StepInfo) {
			m.stepTokens.Observe(float64(s.Rows))
			m.stepSeconds.Observe(s.Duration.Seconds())
		},
		FirstToken: func(d time.Duration) { m.ttft.Observe(d.Seconds()) },
		TokenGap:   func(d time.Duration) { m.itl.Observe(d.Seconds()) },
		Finished:   m.finished,
	}
}

// finished observes a request that was served; one that was cancelled or failed would tell of its client.
func (m *Metrics) finished(r engine.RequestInfo) {
	for _, c := range r.Choices {
		if c.Finish != batch.FinishStop && c.Finish != batch.FinishLength {
			return
		}
	}
	m.e2e.Observe(r.Total().Seconds())
	m.queue.Observe(r.Queue().Seconds())
	m.prefill.Observe(r.Prefill().Seconds())
	m.decode.Observe(r.Decode().Seconds())
	m.inferred.Observe((r.Prefill() + r.Decode()).Seconds())
	m.promptTokens.Observe(float64(r.PromptTokens))
	m.outputTokens.Observe(float64(r.OutputTokens))
	if n := r.OutputTokens - len(r.Choices); n > 0 {
		m.tpot.Observe(r.Decode().Seconds() * float64(len(r.Choices)) / float64(n))
	}
}

// register puts everything under the server's labels.
func (m *Metrics) register(s *Server) error {
	if m.taken.Swap(true) {
		return errors.New("these Metrics belong to another server; make new ones")
	}
	labels := prometheus.Labels{"model_name": s.names[0], "engine": "0"}
	r := prometheus.WrapRegistererWith(labels, m.registry)
	for _, c := range []prometheus.Collector{m.ttft, m.itl, m.tpot, m.e2e, m.queue, m.prefill, m.decode, m.inferred,
		m.promptTokens, m.outputTokens, m.stepTokens, m.stepSeconds, &snapshot{engine: s.llm.Engine}} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sestina_build_info", Help: "1, with the build and the backend as labels.",
		ConstLabels: prometheus.Labels{"version": version, "backend": s.llm.Describe}})
	build.Set(1)
	for _, c := range []prometheus.Collector{build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := m.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, _ *call) *apiError {
	promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	return nil
}

// snapshot reads the engine's Stats once a scrape.
type snapshot struct{ engine *engine.Engine }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descRunning     = desc("vllm:num_requests_running", "Sequences that own KV blocks.")
	descWaiting     = desc("vllm:num_requests_waiting", "Sequences that wait for a place.")
	descUsage       = desc("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1.")
	descConfig      = desc("vllm:cache_config_info", "1, with the KV cache's shape as labels.", "block_size", "num_gpu_blocks", "enable_prefix_caching")
	descPrompt      = desc("vllm:prompt_tokens_total", "Prompt tokens of requests that have begun.")
	descOutput      = desc("vllm:generation_tokens_total", "Output tokens.")
	descSuccess     = desc("vllm:request_success_total", "Sequences that ended, by reason.", "finished_reason")
	descPreemptions = desc("vllm:num_preemptions_total", "Sequences that lost their blocks and were computed again.")
	descQueries     = desc("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.")
	descHits        = desc("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.")
	descStops       = desc("sestina_prefix_cache_stops_total", "Requests by why the prefix cache had no more of the prompt.", "reason")
	descCached      = desc("vllm:prompt_tokens_cached_total", "Prompt tokens that were not computed.")
	descRejections  = desc("vllm:admission_rejections_total", "Requests refused, by reason.", "reason")
	descBlocks      = desc("sestina_kv_blocks", "KV blocks by state; the states sum to the pool.", "state")
	descQueueTokens = desc("sestina_waiting_tokens", "Prompt tokens that wait for a place.")
	descFailed      = desc("sestina_failed_steps_total", "Steps that failed as a whole.")
	descRebuilds    = desc("sestina_scheduler_rebuilds_total", "Times that the scheduler's books were started anew.")
	descDrafts      = desc("vllm:spec_decode_num_drafts_total", "Drafts that were verified.")
	descDrafted     = desc("vllm:spec_decode_num_draft_tokens_total", "Draft tokens that were verified.")
	descAccepted    = desc("vllm:spec_decode_num_accepted_tokens_total", "Draft tokens that were accepted.")
	descAcceptedAt  = desc("vllm:spec_decode_num_accepted_tokens_per_pos_total", "Draft tokens that were accepted, by place in the draft.", "position")
	descDraftFaults = desc("sestina_spec_proposer_faults_total", "Drafts that were done without: the proposer failed or returned nonsense.", "proposer")
	descReady       = desc("sestina_ready", "1 while new requests are served.")
)

// Describe sends nothing: the collector is unchecked, as its names are fixed.
func (*snapshot) Describe(chan<- *prometheus.Desc) {}

func (s *snapshot) Collect(ch chan<- prometheus.Metric) {
	st := s.engine.Stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descRunning, float64(st.Running))
	gauge(descWaiting, float64(st.Waiting))
	gauge(descUsage, st.KVUsage)
	caching := strconv.FormatBool(s.engine.Options().Techniques.PrefixCaching == "on")
	gauge(descConfig, 1, strconv.Itoa(st.Blocks.Size), strconv.Itoa(st.Blocks.Total), caching)
	counter(descPrompt, st.PromptTokens)
	counter(descOutput, st.OutputTokens)
	for reason := batch.FinishStop; reason <= batch.FinishRejected; reason++ {
		counter(descSuccess, st.Finished[reason], reason.String())
	}
	counter(descPreemptions, st.Preemptions)
	counter(descQueries, st.PrefixQueryTokens)
	counter(descHits, st.PrefixHitTokens)
	counter(descCached, st.PrefixHitTokens)
	for stop := batch.StopBlockEdge; stop < batch.NumMatchStops; stop++ {
		counter(descStops, st.PrefixStops[stop], stop.String())
	}
	for i, n := range st.Refused {
		counter(descRejections, n, engine.Refusal(i).String())
	}
	for state, n := range map[string]int{"free": st.Blocks.Free, "idle": st.Blocks.Idle, "referenced": st.Blocks.Referenced, "fenced": st.Blocks.Fenced} {
		gauge(descBlocks, float64(n), state)
	}
	gauge(descQueueTokens, float64(st.WaitingTokens))
	counter(descFailed, st.FailedSteps)
	counter(descRebuilds, st.Rebuilds)
	collectTier(&st, func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	})
	ready := 0.0
	if s.engine.Ready() == nil {
		ready = 1
	}
	gauge(descReady, ready)
	if sp := st.Speculation; sp != nil {
		counter(descDrafted, sp.Drafted)
		counter(descAccepted, sp.Accepted)
		var tried, accepted []uint64
		for _, p := range sp.Proposers {
			counter(descDraftFaults, p.Faults, p.Name)
			for at := range p.At {
				if at == len(tried) {
					tried, accepted = append(tried, 0), append(accepted, 0)
				}
				tried[at] += p.TriedAt[at]
				accepted[at] += p.At[at]
			}
		}
		if len(tried) > 0 {
			counter(descDrafts, tried[0]) // one a sequence and step, as vLLM counts
		}
		for at, n := range accepted {
			if tried[at] > 0 {
				counter(descAcceptedAt, n, strconv.Itoa(at))
			}
		}
	}
}
