package pebblestore

import (
	"sync"

	"pulsegate/fhir/series"
)

// tier reads and encodes the samples of a store.
type tier struct {
	codec   *series.Codec
	infos   *infos
	decoded decodedBlocks
	spare   sync.Pool // of *series.Columns
}

func newTier() (*tier, error) {
	codec, err := series.NewCodec()
	if err != nil {
		return nil, err
	}
	return &tier{codec: codec, infos: newInfos()}, nil
}

// encode appends the bytes of a block.
func (t *tier) encode(cols *series.Columns) ([]byte, error) { return t.codec.Encode(nil, cols) }

// release gives back what columns returned.
func (t *tier) release(c *series.Columns) { t.spare.Put(c) }

// ofTemplate returns the series of a writer's template.
func (t *tier) ofTemplate(tpl *series.Template) (*seriesInfo, error) { return t.infos.ofTemplate(tpl) }
