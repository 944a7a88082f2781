package link

import (
	"bytes"
	"io"
	"net/http"
	"net/url"

	"pulsegate/adapters/cloud"
)

// maxTokenAnswer bounds an answer of a token endpoint in bytes.
const maxTokenAnswer = 1 << 20

// dialect sends requests to the token endpoint of a vendor whose requests or answers
// have another form than RFC 6749 prescribes.
type dialect struct {
	base  http.RoundTripper
	oauth cloud.OAuth
}

// RoundTrip implements http.RoundTripper.
func (d *dialect) RoundTrip(rq *http.Request) (*http.Response, error) {
	if len(d.oauth.TokenParams) > 0 {
		var err error
		if rq, err = d.extend(rq); err != nil {
			return nil, err
		}
	}
	answer, err := d.base.RoundTrip(rq)
	if err != nil || d.oauth.Unwrap == nil {
		return answer, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxTokenAnswer))
	if err != nil {
		return nil, err
	}
	status, body := d.oauth.Unwrap(answer.StatusCode, body)
	answer.StatusCode, answer.Status = status, http.StatusText(status)
	answer.Header = answer.Header.Clone()
	answer.Header.Set("Content-Type", "application/json")
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return answer, nil
}

// extend returns a copy of a request with the vendor's parameters in its form.
func (d *dialect) extend(rq *http.Request) (*http.Request, error) {
	defer rq.Body.Close()
	b, err := io.ReadAll(rq.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(b))
	if err != nil {
		return nil, err
	}
	for name, value := range d.oauth.TokenParams {
		form.Set(name, value)
	}
	b = []byte(form.Encode())
	rq = rq.Clone(rq.Context())
	rq.Body, rq.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	rq.GetBody = nil // the request is never repeated
	return rq, nil
}
