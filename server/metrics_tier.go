package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"sestina/engine"
)

var (
	descTierTokens = desc("sestina_kv_tier_tokens_total", "Tokens whose K/V came back from the tier below the pool.")
	descTierMoved  = desc("sestina_kv_tier_bytes_total", "Bytes of K/V moved, by way: save (from the pool), load (to it), disk_write, disk_read.", "way")
	descTierHeld   = desc("sestina_kv_tier_bytes", "Bytes of K/V held below the pool, by place: host, disk; pending are the host's that the disk is yet to have.", "place")
	descTierLost   = desc("sestina_kv_tier_dropped_blocks_total", "Blocks that were not kept because the disk was behind or had failed.")
	descTierFaults = desc("sestina_kv_tier_faults_total", "Records that were refused and reads and writes that failed; each is a line in the log.")
)

// collectTier sends the figures of the tier, if there is one.
func collectTier(st *engine.Stats, send func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string)) {
	t := st.Tier
	if t == nil {
		return
	}
	send(descTierTokens, prometheus.CounterValue, float64(st.TierTokens))
	for way, n := range map[string]uint64{"save": t.Saved, "load": t.Loaded, "disk_write": t.DiskWrites, "disk_read": t.DiskReads} {
		send(descTierMoved, prometheus.CounterValue, float64(n)*float64(t.BlockBytes), way)
	}
	for place, n := range map[string]int{"host": t.HostBlocks, "disk": t.DiskBlocks, "pending": t.Pending} {
		send(descTierHeld, prometheus.GaugeValue, float64(n)*float64(t.BlockBytes), place)
	}
	send(descTierLost, prometheus.CounterValue, float64(t.Dropped))
	send(descTierFaults, prometheus.CounterValue, float64(t.Faults))
}
