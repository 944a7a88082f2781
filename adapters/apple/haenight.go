package apple

import (
	"math"
	"strconv"

	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// nightMembers lists the members of an aggregated night with the names of their
// components.
var nightMembers = [][2]string{{"deep", "deep"}, {"rem", "rem"}, {"core", "core"}, {"awake", "awake"},
	{"asleep", "unspecified"}, {"inBed", "inBed"}}

// nightParts sets the value and the components of an aggregated night. "asleep" is
// sleep without a stage if the source has stages, and the whole sleep otherwise.
//
// Health Auto Export writes 0 for members that a source does not measure.
// Therefore a zero of deep, rem or core counts only if another stage is not zero.
// Zero hours in bed and zero hours asleep never count. Zero hours awake count only
// with stages, because a source without stages cannot detect that the wearer was
// awake.
func (h *haeDecoder) nightParts(s *sample.Sample, v *fastjson.Value, units string) error {
	given := map[string]string{}
	amount := map[string]float64{}
	for _, k := range nightMembers {
		n, err := h.componentNumber(v, s.Metric, k[0], k[1])
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
	stated, err := h.componentNumber(v, s.Metric, "totalSleep", "totalSleep")
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
			err := h.rejectComponent(s.Metric, k[1], sample.DropPlaceholder, "zero stands for not measured")
			if err != nil {
				return err
			}
		}
	}
	return nil
}
