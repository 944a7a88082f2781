package tier

import (
	"sync"

	"pulsegate/fhir/series"
)

// Tier reads and encodes the samples of a store. It is safe for concurrent use.
type Tier struct {
	codec   *series.Codec
	series  *seriesCache
	decoded decodedBlocks
	spare   sync.Pool // of *series.Columns
}

// New returns a Tier with empty caches.
func New() (*Tier, error) {
	codec, err := series.NewCodec()
	if err != nil {
		return nil, err
	}
	return &Tier{codec: codec, series: newSeriesCache()}, nil
}

// Encode returns the bytes of a block.
func (t *Tier) Encode(cols *series.Columns) ([]byte, error) { return t.codec.Encode(nil, cols) }

// Release returns columns to the pool.
func (t *Tier) Release(c *series.Columns) { t.spare.Put(c) }

// OfTemplate returns the series of a writer's template.
func (t *Tier) OfTemplate(tpl *series.Template) (*Series, error) { return t.series.ofTemplate(tpl) }
