package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"pulsegate/fhir"
	"pulsegate/fhir/egress"
)

// Options configures a Bucket. All fields but PartBytes are required.
type Options struct {
	// URL is the address of the bucket in path style, with an optional prefix of the names:
	// https://host/bucket/prefix.
	URL string
	// Region is the region in signatures, such as us-east-1.
	Region string
	// ID and Secret are the access key.
	ID, Secret string
	// Policy decides which addresses are reached. Its Timeout bounds one request.
	Policy egress.Policy
	Clock  func() time.Time
	// PartBytes is the size of the parts of an object in bytes. The default is 8 MiB; S3
	// refuses less than 5 MiB.
	PartBytes int
}

const (
	defaultPart = 8 << 20
	// maxParts is the limit of S3.
	maxParts = 10000
	// maxAnswer bounds the part of an answer that is read.
	maxAnswer = 64 << 10
)

// Bucket puts objects below a prefix of a bucket. It is safe for concurrent use.
type Bucket struct {
	opts        Options
	base        *url.URL
	bucket      string
	credentials aws.Credentials
	signer      *v4.Signer
	client      *http.Client
}

// New returns a Bucket. It sends no request.
func New(o Options) (*Bucket, error) {
	const op = "bucket.New"
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "the address must have the form https://host/bucket/prefix")
	}
	if err := o.Policy.Check(u); err != nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "the address must be https, or http in a network of egress-allow")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	name, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if name == "" || strings.Trim(u.Path, plain) != "" {
		return nil, fhir.Errorf(fhir.Invalid, op,
			"the address must name a bucket; it may consist of letters, digits, and the characters - . _ /")
	}
	switch {
	case o.Region == "" || strings.ContainsAny(o.Region, "/ \n"):
		return nil, fhir.Errorf(fhir.Invalid, op, "the region is required")
	case o.ID == "" || o.Secret == "":
		return nil, fhir.Errorf(fhir.Invalid, op, "the access key id and its secret are required")
	case o.Clock == nil:
		return nil, fhir.Errorf(fhir.Internal, op, "Clock is required")
	}
	if o.PartBytes <= 0 {
		o.PartBytes = defaultPart
	}
	return &Bucket{opts: o, base: u, bucket: name, client: egress.New(o.Policy),
		credentials: aws.Credentials{AccessKeyID: o.ID, SecretAccessKey: o.Secret},
		// S3 signs the path as it is sent.
		signer: v4.NewSigner(func(s *v4.SignerOptions) { s.DisableURIPathEscaping = true })}, nil
}

// plain holds the characters of names, none of which is escaped in a path.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/"

// Host returns the host and port of the object store.
func (b *Bucket) Host() string { return b.base.Host }

// Locate returns the address of an object, such as s3://bucket/prefix/name.
func (b *Bucket) Locate(name string) string {
	return "s3:/" + b.base.Path + "/" + name
}

// Put stores the object that write writes. If write fails, nothing is stored and its error is
// returned. An object of the same name is replaced.
func (b *Bucket) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	if name == "" || strings.Trim(name, plain) != "" {
		return fhir.Errorf(fhir.Internal, "bucket.Put", "the name has characters that are not permitted")
	}
	u := &upload{bucket: b, ctx: ctx, name: name}
	err := write(u)
	if err == nil {
		err = u.complete()
	}
	if err != nil && u.id != "" {
		// The context may have ended. Whatever stays is not an object.
		abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
		defer cancel()
		_, _, abortErr := b.do(abort, http.MethodDelete, name, url.Values{"uploadId": {u.id}}, nil)
		err = errors.Join(err, abortErr)
	}
	return err
}

// abortTimeout bounds the request that aborts an upload.
const abortTimeout = 5 * time.Second

// Delete deletes an object. It returns nil if there is none.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	_, _, err := b.do(ctx, http.MethodDelete, name, nil, nil)
	if fhir.KindOf(err) == fhir.NotFound {
		err = nil
	}
	return err
}

// upload is an object that is being written. It holds one part in memory.
type upload struct {
	bucket *Bucket
	ctx    context.Context
	name   string
	id     string // of the multipart upload; empty until a second part begins
	buf    []byte
	parts  []part
}

type part struct {
	PartNumber int
	ETag       string
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(u.buf) == u.bucket.opts.PartBytes {
			if err := u.part(); err != nil {
				return n - len(p), err
			}
		}
		k := min(len(p), u.bucket.opts.PartBytes-len(u.buf))
		u.buf, p = append(u.buf, p[:k]...), p[k:]
	}
	return n, nil
}

// part sends the part in memory.
func (u *upload) part() error {
	if u.id == "" {
		_, body, err := u.bucket.do(u.ctx, http.MethodPost, u.name, url.Values{"uploads": {""}}, nil)
		if err != nil {
			return err
		}
		var r struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			UploadID string   `xml:"UploadId"`
		}
		if xml.Unmarshal(body, &r) != nil || r.UploadID == "" {
			return errAnswer
		}
		u.id = r.UploadID
	}
	if len(u.parts) == maxParts {
		return fhir.Errorf(fhir.TooLarge, "bucket.Put", "the object has more than %d parts", maxParts)
	}
	number := len(u.parts) + 1
	header, _, err := u.bucket.do(u.ctx, http.MethodPut, u.name,
		url.Values{"partNumber": {strconv.Itoa(number)}, "uploadId": {u.id}}, u.buf)
	if err != nil {
		return err
	}
	u.parts, u.buf = append(u.parts, part{number, header.Get("ETag")}), u.buf[:0]
	return nil
}

// errAnswer is the error for an answer that is not one of S3.
var errAnswer = fhir.Errorf(fhir.Unavailable, "bucket.do", "the answer of the object store cannot be read")

// complete makes the object.
func (u *upload) complete() error {
	if u.id == "" {
		_, _, err := u.bucket.do(u.ctx, http.MethodPut, u.name, nil, u.buf)
		return err
	}
	if err := u.part(); err != nil {
		return err
	}
	body, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []part
	}{Part: u.parts})
	if err != nil {
		return fhir.Wrap("bucket.Put", err)
	}
	_, answer, err := u.bucket.do(u.ctx, http.MethodPost, u.name, url.Values{"uploadId": {u.id}}, body)
	if err != nil {
		return err
	}
	// An error may come with status 200, after the store has begun to answer.
	var r struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
	}
	if xml.Unmarshal(answer, &r) != nil {
		return errAnswer
	}
	u.id = ""
	return nil
}

// do sends a request. Errors hold nothing of the answer but its status.
func (b *Bucket) do(ctx context.Context, method, name string, query url.Values, body []byte) (
	http.Header, []byte, error) {
	const op = "bucket.do"
	u := *b.base
	u.Path += "/" + name
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fhir.Wrap(op, err)
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "application/fhir+ndjson")
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	if err := b.signer.SignHTTP(ctx, b.credentials, req, hash, "s3", b.opts.Region, b.opts.Clock()); err != nil {
		return nil, nil, fhir.Errorf(fhir.Internal, op, "a request to the object store could not be signed")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, fhir.Wrap(op, ctx.Err())
		}
		// The error of package http has the address, which is not for errors.
		return nil, nil, fhir.Errorf(fhir.Unavailable, op, "the object store could not be reached")
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil, fhir.Errorf(fhir.NotFound, op, "the object store has no such bucket, upload or object")
	case resp.StatusCode/100 != 2:
		return nil, nil, fhir.Errorf(fhir.Unavailable, op, "the object store answered with status %d",
			resp.StatusCode)
	case err != nil:
		return nil, nil, fhir.Errorf(fhir.Unavailable, op, "the answer of the object store broke off")
	}
	return resp.Header, answer, nil
}
