package sestina

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"sestina/hub"
	"sestina/internal/cpuinfo"
	"sestina/spec"
)

// curveSchema names the format of a kept cost curve.
const curveSchema = "sestina.curve/1"

// curveFile is a cost curve as it is kept in the store, so that the next run need
// not learn again what a step of so many rows costs.
type curveFile struct {
	Schema string       `json:"schema"`
	Key    string       `json:"key"` // what it was measured on
	Points []spec.Point `json:"points"`
}

// learnt is how many steps a curve must have seen to be worth keeping.
const learnt = 300

// curveKey names everything that a step's cost depends on besides its rows.
func (l *LLM) curveKey(o *Options) string {
	t, i := &o.Techniques, &l.Info
	return fmt.Sprintf("%s %s %d parameters %d bytes · %s · %s · KV %s in blocks of %d · activations %q, attention %q, gqa %q, layout %q",
		l.Name, i.Arch, i.Params, i.StepBytes, cpuinfo.Name(), l.Describe, l.Pool.KVDType(), l.Pool.BlockSize, o.ActivationDType, t.Attention, t.GQA, t.KVLayout)
}

// newCurve is the roofline, corrected by what an earlier run has learnt, if it
// has. What goes wrong with the file costs its knowledge only. keep writes down
// what was learnt; the engine must have stopped.
func (l *LLM) newCurve(o *Options) (c *spec.Curve, keep func()) {
	c = spec.NewCurve(prior(l.Info))
	key, dir, log := l.curveKey(o), o.StoreDir, o.Log
	if log == nil {
		log = slog.Default()
	}
	points, err := readCurve(dir, key)
	if err != nil {
		log.Warn("the cost curve of earlier runs cannot be read; it is learnt again", "err", err)
	}
	c.Restore(points)
	return c, func() {
		if c.Steps() < learnt {
			return
		}
		if err := writeCurve(dir, key, c.Points()); err != nil {
			log.Warn("the cost curve is not kept for the next run", "err", err)
		}
	}
}

func readCurve(dir, key string) ([]spec.Point, error) {
	store, err := hub.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	data, err := store.Measured(key)
	if data == nil || err != nil {
		return nil, err
	}
	var f curveFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Schema != curveSchema || f.Key != key {
		return nil, fmt.Errorf("format %q for %q, want %s for %q", f.Schema, f.Key, curveSchema, key)
	}
	return f.Points, nil
}

func writeCurve(dir, key string, points []spec.Point) error {
	data, err := json.Marshal(curveFile{curveSchema, key, points})
	if err != nil {
		return err
	}
	store, err := hub.OpenStore(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	return store.KeepMeasured(key, data)
}
