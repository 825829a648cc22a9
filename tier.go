package sestina

import (
	"context"
	"errors"
	"fmt"

	"sestina/backend"
	"sestina/checkpoint"
	"sestina/runner"
	"sestina/runner/tier"
)

const (
	defaultKVDiskTierBytes = 8 << 30
	leastKVHostTierBytes   = 256 << 20 // with a disk tier: everything on its way passes through it
)

// hostTierBytes is the default beside a disk: half of it can be filled ahead, so
// two of the longest prompts, but no more than the pool has.
func (l *LLM) hostTierBytes(opt *Options, block uint64) uint64 {
	length := opt.MaxModelLen
	if length == 0 {
		length = l.Info.MaxContext
	}
	longest := uint64((length+l.Pool.BlockSize-1)/l.Pool.BlockSize*len(l.Pool.Windows)) * block
	return max(leastKVHostTierBytes, 8*block, min(2*longest, l.Pool.Bytes))
}

// checkTiers refuses what contradicts itself.
func (o *Options) checkTiers() error {
	switch {
	case o.KVDiskTierBytes > 0 && o.KVDiskTier == "":
		return errors.New("--kv-disk-tier-bytes needs --kv-disk-tier DIR")
	case o.tiered() && o.Techniques.PrefixCaching == "off":
		return errors.New("--kv-host-tier-bytes and --kv-disk-tier find K/V by prefix: leave prefix caching on, or take them away")
	}
	return nil
}

func (o *Options) tiered() bool { return o.KVHostTierBytes > 0 || o.KVDiskTier != "" }

// newTier opens what lies below the pool of r; nil if nothing was asked for.
func (l *LLM) newTier(ctx context.Context, opt *Options, r *runner.ModelRunner) (*tier.Store, error) {
	if !opt.tiered() {
		return nil, nil
	}
	cfg := tier.Config{HostBytes: opt.KVHostTierBytes, Dir: opt.KVDiskTier, DiskBytes: opt.KVDiskTierBytes, Log: opt.Log}
	if cfg.Dir != "" {
		if cfg.HostBytes == 0 {
			cfg.HostBytes = l.hostTierBytes(opt, uint64(r.Cache().BlockBytes()))
		}
		if cfg.DiskBytes == 0 {
			cfg.DiskBytes = defaultKVDiskTierBytes
		}
		var err error
		if cfg.Identity, err = l.tierIdentity(ctx, opt, r); err != nil {
			return nil, fmt.Errorf("the MTP file's digest, for --kv-disk-tier: %w", err)
		}
	}
	return tier.New(r.Cache(), cfg)
}

// digest names the contents of a checkpoint, which are still those that were loaded.
func digest(c *checkpoint.Checkpoint) (string, error) {
	d, err := c.Digest()
	if err == nil {
		err = c.CheckUnchanged()
	}
	return d, err
}

// tierIdentity is all that the bytes of a block depend on, by contents and not by
// name. By the numerics contract (ARCHITECTURE.md) that is not the threads, and the
// instruction set only where the backend says so; its version goes up when the
// contract's arithmetic changes.
func (l *LLM) tierIdentity(ctx context.Context, opt *Options, r *runner.ModelRunner) (id tier.Identity, err error) {
	activations := opt.ActivationDType
	if activations == "" {
		activations = "auto"
	}
	layout := r.Cache().Layout()
	if groups := r.Cache().Spec().Groups; groups != nil {
		layout += fmt.Sprintf(", layers %v", groups)
	}
	id = tier.Identity{Model: l.Name, Contents: l.digest, Numerics: "contract 1, activations " + activations, KVDType: l.Pool.KVDType(),
		BlockSize: l.Pool.BlockSize, Layout: layout}
	if n := backend.NumericsOf(l.backend); n != "" {
		id.Numerics += ", " + n
	}
	mtp, err := mtpSource(ctx, nil, opt)
	if err == nil && mtp != nil { // its layer's K and V are in every block too
		defer mtp.Close()
		var more string
		more, err = mtp.Digest()
		id.Contents += "+" + more
	}
	return id, err
}

// CacheSecret is what salts of the prefix cache should be derived with, so that
// each tenant finds its own in the disk tier after a restart; nil: any will do.
func (l *LLM) CacheSecret() []byte {
	if t := l.Engine.Options().Tier; t != nil {
		return t.Secret()
	}
	return nil
}
