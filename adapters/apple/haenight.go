package apple

import (
	"math"
	"strconv"

	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// nightMembers are the members of an aggregated night and their components.
var nightMembers = [][2]string{{"deep", "deep"}, {"rem", "rem"}, {"core", "core"}, {"awake", "awake"},
	{"asleep", "unspecified"}, {"inBed", "inBed"}}

// nightParts fills value and components of an aggregated night. "asleep" is
// sleep without a stage where the source has stages, else the whole sleep.
//
// Health Auto Export writes 0 for what a source does not measure. So zeros of
// deep, rem and core are measurements only where one of them is not zero; a
// night of 0 h in bed, or asleep without any sleep, is none; and a source
// without stages does not know that nobody was awake.
func (h *haeDecoder) nightParts(s *sample.Sample, v *fastjson.Value, units string) error {
	given := map[string]string{}
	amount := map[string]float64{}
	for _, k := range nightMembers {
		n, err := h.part(v, s.Metric, k[0], k[1])
		if err != nil {
			return err
		}
		f, err := strconv.ParseFloat(n, 64)
		if n == "" || err != nil {
			continue
		}
		given[k[0]], amount[k[0]] = n, f
	}
	staged := amount["deep"] != 0 || amount["rem"] != 0 || amount["core"] != 0
	stated, err := h.part(v, s.Metric, "totalSleep", "totalSleep")
	if err != nil {
		return err
	}
	if f, err := strconv.ParseFloat(stated, 64); err == nil && f == 0 {
		stated = ""
	}
	total := amount["deep"] + amount["rem"] + amount["core"] + amount["asleep"]
	if stated == "" && total > 0 {
		stated = strconv.FormatFloat(math.Round(total*1e6)/1e6, 'f', -1, 64)
	}
	if stated != "" {
		s.Value = number(stated, units)
	}
	for _, k := range nightMembers {
		n, ok := given[k[0]]
		measured := amount[k[0]] != 0 || staged && k[0] != "inBed"
		switch {
		case !ok || measured && !staged && k[0] == "asleep":
		case measured:
			s.Components = append(s.Components, sample.Component{Name: k[1], Value: number(n, units)})
		default:
			if err := h.leave(s.Metric, k[1], sample.DropPlaceholder, "zero stands for not measured"); err != nil {
				return err
			}
		}
	}
	return nil
}
