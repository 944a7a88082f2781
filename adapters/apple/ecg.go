package apple

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

const (
	metricECG     = "HKDataTypeIdentifierElectrocardiogram"
	maxECGLines   = 1 << 18 // 8 minutes at 512 Hz; Apple records 30 s
	maxECGHeaders = 32
)

// ecgKeys maps the header keys of some languages to fields. Keys of other
// languages are recognized by their position, which is the same in all languages.
var ecgKeys = map[string]string{
	"Recorded Date": "date", "Aufzeichnungsdatum": "date", "Date d’enregistrement": "date", "Fecha de registro": "date",
	"Classification": "class", "Klassifizierung": "class", "Clasificación": "class", "Classificazione": "class",
	"Symptoms": "symptoms", "Symptome": "symptoms", "Symptômes": "symptoms", "Síntomas": "symptoms",
	"Software Version": "software", "Softwareversion": "software",
	"Device": "device", "Gerät": "device", "Appareil": "device", "Dispositivo": "device",
	"Sample Rate": "rate", "Messrate": "rate", "Lead": "lead", "Ableitung": "lead", "Unit": "unit", "Einheit": "unit",
	"Name": "name", "Date of Birth": "birth", "Geburtstag": "birth",
}

var ecgPositions = []string{"name", "birth", "date", "class", "symptoms", "software", "device", "rate", "lead", "unit"}

// decodeECG reads one ECG CSV. It skips the name and the birth date.
func decodeECG(ctx context.Context, in adapters.Input, format string, sink adapters.Sink) error {
	fail := func(line int, rule string) error {
		return &adapters.PayloadError{Format: format, Where: "line " + strconv.Itoa(line), Rule: rule}
	}
	lines := bufio.NewScanner(in.Body)
	lines.Buffer(make([]byte, 4096), 64<<10)
	header := map[string]string{}
	n, rows := 0, 0
	for header["unit"] == "" && n < maxECGHeaders && lines.Scan() {
		n++
		key, val, ok := cutCSV(lines.Text())
		if !ok {
			continue
		}
		role := ecgKeys[key]
		if role == "" && rows < len(ecgPositions) {
			role = ecgPositions[rows]
		}
		rows++
		if role != "" && role != "name" && role != "birth" && header[role] == "" {
			header[role] = val
		}
	}
	if header["unit"] == "" {
		return fail(n, "the ECG header is incomplete: no unit")
	}
	var data []byte
	points := 0
	for lines.Scan() {
		n++
		if points&1023 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		v := bytes.TrimSpace(lines.Bytes())
		if len(v) == 0 {
			continue
		}
		num, ok := decimal(bytes.ReplaceAll(v, []byte(","), []byte(".")))
		if !ok {
			return fail(n, "a voltage is not a decimal")
		}
		if points++; points > maxECGLines {
			return fail(n, "more than 262144 voltages")
		}
		if points > 1 {
			data = append(data, ' ')
		}
		data = append(data, num...)
	}
	if err := lines.Err(); err != nil {
		if err == bufio.ErrTooLong {
			return fail(n, "a line over 64 KiB")
		}
		return &adapters.PayloadError{Format: format, Where: "line " + strconv.Itoa(n),
			Rule: "the body cannot be read", Err: err}
	}
	s, where, rule := ecgSample(in, header, data, points)
	if s == nil {
		return &adapters.PayloadError{Format: format, Where: where, Rule: rule}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return sink.Sample(s)
}

// cutCSV splits a header line at its first comma. The value may be quoted or have
// a decimal comma.
func cutCSV(line string) (key, value string, ok bool) {
	line = strings.TrimPrefix(strings.TrimSpace(line), "\ufeff")
	key, value, ok = strings.Cut(line, ",")
	value = strings.TrimSpace(value)
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = strings.ReplaceAll(value[1:len(value)-1], `""`, `"`)
	}
	return strings.Trim(strings.TrimSpace(key), `"`), value, ok
}

// ecgSample makes the sample of a recording. If the header is invalid, it
// returns nil with the position and the broken rule.
func ecgSample(in adapters.Input, h map[string]string, data []byte, points int) (s *sample.Sample, where, rule string) {
	c := newClock(in.Received)
	start, ok := c.parse([]byte(h["date"]))
	if !ok || !c.plausible(start) {
		return nil, "line 3", "the recorded date is unreadable or out of range"
	}
	rate, num := sampleRate(h["rate"])
	if rate == 0 {
		return nil, "line 8", "the sample rate is unreadable"
	}
	unit, ok := ecgUnit(h["unit"])
	if !ok {
		return nil, "header", "the unit is neither microvolt nor millivolt"
	}
	if points == 0 {
		return nil, "data", "no voltages"
	}
	period := periodOf(rate)
	sum := sha256.Sum256(data)
	s = &sample.Sample{
		Metric: metricECG, Channel: "ecg.csv", Start: start, End: start.Add(time.Duration(points) * period),
		Zone: sample.ZoneInstant,
		Value: sample.Value{Kind: sample.Series,
			Series: &sample.SeriesData{Period: period, Unit: unit, Data: string(data)}},
		VendorID: "ecg/" + strconv.FormatInt(start.Unix(), 10) + "/" + hex.EncodeToString(sum[:8]),
		Device: sample.Device{Manufacturer: "Apple Inc.", Hardware: h["device"], Model: ecgModel(h["device"]),
			Kind: deviceType(h["device"])},
		Source: sample.Source{Name: "ECG", Version: h["software"]},
	}
	add := func(name string, v sample.Value) {
		s.Components = append(s.Components, sample.Component{Name: name, Value: v})
	}
	for _, k := range [][2]string{{"classification", "class"}, {"symptoms", "symptoms"}, {"lead", "lead"}} {
		if v := h[k[1]]; v != "" {
			add(k[0], text(v))
		}
	}
	add("samplingFrequency", number(num, "Hz"))
	return s, "", ""
}

// ecgModel returns the model of a hardware identifier such as "Watch7,2".
func ecgModel(hardware string) string {
	if strings.HasPrefix(hardware, "Watch") {
		return "Watch"
	}
	return ""
}

// periodOf returns the time between two points at a rate in hertz.
func periodOf(rate float64) time.Duration {
	return time.Duration(math.Round(float64(time.Second) / rate))
}

// sampleRate reads a rate such as "511,422 Hertz", with any space before the unit.
func sampleRate(s string) (float64, string) {
	n := strings.IndexFunc(s, func(r rune) bool { return r != '.' && r != ',' && (r < '0' || r > '9') })
	if n >= 0 {
		s = s[:n]
	}
	num, ok := decimal([]byte(strings.ReplaceAll(s, ",", ".")))
	if !ok {
		return 0, ""
	}
	f, err := strconv.ParseFloat(string(num), 64)
	if err != nil || f < 1 || f > 100000 {
		return 0, ""
	}
	return f, string(num)
}

// ecgUnit returns the unit as "uV" or "mV".
func ecgUnit(s string) (string, bool) {
	switch s {
	case "µV", "μV", "uV", "mcV":
		return "uV", true
	case "mV":
		return "mV", true
	}
	return "", false
}

// looksLikeECG reports whether the third line has a date and a later one has the
// unit of an ECG.
func looksLikeECG(head []byte) bool {
	lines := strings.SplitN(string(head[:min(len(head), 4096)]), "\n", 20)
	if len(lines) < 10 {
		return false
	}
	_, date, _ := cutCSV(lines[2])
	if _, ok := newClock(time.Time{}).parse([]byte(date)); !ok {
		return false
	}
	for _, l := range lines[3:] {
		if _, v, ok := cutCSV(l); ok {
			if _, ok := ecgUnit(v); ok {
				return true
			}
		}
	}
	return false
}
