package interaction

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// preferredTag marks a value that was derived from several sources.
const preferredTag = fhir.Canonical + "/CodeSystem/measures|preferred"

// readForm validates the inputs of $ehr-bundle.
func (s *Service) readForm(patient string, ps []Parameter) (*formRequest, error) {
	const op = "interaction.EHRBundle"
	limits := s.Limits.withDefaults()
	r := &formReader{service: s, request: &formRequest{patient: patient, name: DefaultForm,
		subject: "Patient/" + patient,
		every:   defaultEvery * time.Minute, count: limits.Count}}
	for i := range ps {
		if err := r.parameter(&ps[i]); err != nil {
			return nil, err
		}
	}
	a := r.request
	var ok bool
	if a.form, ok = s.Forms[a.name]; !ok {
		return nil, fhir.Errorf(fhir.Invalid, op, "form must be one of %s", strings.Join(sortedKeys(s.Forms), ", "))
	}
	pairs := append([][2]string{{"patient", patient}, {"status", "final,amended,corrected"}}, a.form.Query...)
	if len(r.codes) > 0 {
		pairs = append(pairs, [2]string{paramCode, strings.Join(r.codes, ",")})
	}
	if !r.preferred {
		pairs = append(pairs, [2]string{"_tag:not", preferredTag})
	}
	pairs = append(append(pairs, r.dates...), [2]string{"_sort", "date"})
	q, err := search.Parse("Observation", pairs, search.ParseOptions{Base: s.Base, Now: s.Clock})
	if err != nil {
		return nil, err
	}
	a.query = q
	return a, nil
}

type formReader struct {
	service   *Service
	request   *formRequest
	seen      []string
	codes     []string
	dates     [][2]string
	preferred bool
}

func (r *formReader) parameter(p *Parameter) error {
	const op = "interaction.EHRBundle"
	ok := utf8.ValidString(p.Value) && p.Period == nil && (p.Coding == nil || p.Name == paramCode)
	want := ""
	single := p.Name != paramCode
	switch p.Name {
	case paramStart:
		want = "a date or dateTime"
		ok = r.date(p, "ge") && ok
	case paramEnd:
		want = "a date or dateTime"
		ok = r.date(p, "le") && ok
	case paramCode:
		want = "a code, system|code, or a Coding"
		ok = r.code(p) && ok
	case paramForm:
		want = "the name of a form"
		r.request.name = p.Value
	case paramSubject:
		want = "a reference to a Patient, Patient/[id] or an absolute URL"
		r.request.subject, ok = p.Value, ok && patientReference(p.Value)
	case paramEvery:
		want = "minutes from 0 to " + strconv.Itoa(maxEvery)
		n, err := strconv.Atoi(p.Value)
		r.request.every, ok = time.Duration(n)*time.Minute, err == nil && n >= 0 && n <= maxEvery
	case paramPreferred:
		want = "true or false"
		r.preferred, ok = p.Value == "true", p.Value == "true" || p.Value == "false"
	case paramCount:
		want = "a whole number above 0"
		n, err := strconv.Atoi(p.Value)
		r.request.count, ok = min(n, r.service.Limits.withDefaults().MaxCount), err == nil && n > 0
	case paramPage:
		want = "from a link of this server"
		r.request.page = p.Value
	case "_format", "_pretty":
		return nil
	default:
		return fhir.Errorf(fhir.Invalid, op,
			"a parameter is not supported; $ehr-bundle takes start, end, code, form, subject, every, preferred and _count")
	}
	if !ok {
		return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
	}
	if single && slices.Contains(r.seen, p.Name) {
		return fhir.Errorf(fhir.Invalid, op, "%s is given more than once; give it once", p.Name)
	}
	r.seen = append(r.seen, p.Name)
	return nil
}

// date adds a bound of the time. Whether it is a date is for the search to say.
func (r *formReader) date(p *Parameter, prefix string) bool {
	r.dates = append(r.dates, [2]string{"date", prefix + p.Value})
	return p.Value != "" && p.Value[0] >= '0' && p.Value[0] <= '9' && !strings.Contains(p.Value, ",")
}

func (r *formReader) code(p *Parameter) bool {
	value := p.Value
	if p.Coding != nil {
		value = valueEscaper.Replace(p.Coding.Code)
		if p.Coding.System != "" {
			value = valueEscaper.Replace(p.Coding.System) + "|" + value
		}
	}
	r.codes = append(r.codes, value)
	return value != "" && len(value) <= maxCodeList && len(r.codes) <= maxStatsCodes && utf8.ValidString(value)
}

// maxCodeList bounds the length of one parameter with codes, in bytes.
const maxCodeList = 2048

// patientReference reports whether s is a literal reference to a Patient.
func patientReference(s string) bool {
	if len(s) > 512 {
		return false
	}
	path := s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
			u.RawQuery != "" ||
			u.Fragment != "" {
			return false
		}
		i := strings.LastIndex(u.Path, "/Patient/")
		if i < 0 {
			return false
		}
		path = u.Path[i+1:]
	}
	ref, ok := fhir.ParseRef(path)
	return ok && ref.Type == "Patient" && path == ref.String()
}

// applied returns the parameters of the request for its links.
func (a *formRequest) applied(ps []Parameter) string {
	var kept []Parameter
	for _, p := range ps {
		switch p.Name {
		case paramPage, "_format", "_pretty":
		default:
			kept = append(kept, p)
		}
	}
	return FormatParameters(kept)
}
