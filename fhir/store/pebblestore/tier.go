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
