package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault names a kind of fault in counters and in the text form of Faults.
type Fault string

// The kinds of faults.
const (
	Outage     Fault = "outage"     // answer 5xx
	Drop       Fault = "drop"       // close the connection instead of answering
	Slow       Fault = "slow"       // answer late
	RateLimit  Fault = "ratelimit"  // answer 429
	EmptyPage  Fault = "emptypage"  // page without items but with a token for the next page
	Lapse      Fault = "lapse"      // membership lapsed: answer 403
	LostToken  Fault = "losttoken"  // issue tokens, then drop the connection before the answer
	Expire     Fault = "expire"     // access token expires before the stated time
	Duplicate  Fault = "duplicate"  // send an event twice
	Reorder    Fault = "reorder"    // send an event after later ones
	LostEvent  Fault = "lostevent"  // never send an event
	Unexpected Fault = "unexpected" // answer with a body that is not documented (HTML)
)

// Faults configures which faults occur. The zero value injects none.
type Faults struct {
	// Rates holds the probability of each kind of fault: per request for those that
	// concern an answer, per event for those that concern webhooks, per wearer and
	// period of 30 days for Lapse.
	Rates map[Fault]float64
	// Outages lists the intervals in which every request is answered 503.
	Outages []Window
	// TokenLife replaces the vendor's lifetime of access tokens, unless it is 0.
	TokenLife time.Duration
	// SlowBy delays slow answers, in real time. 0 means two seconds.
	SlowBy time.Duration
}

// ParseFaults reads rates in the form "outage=0.01,ratelimit=0.02". The name "all" sets
// every kind of fault.
func ParseFaults(s string) (Faults, error) {
	out := Faults{Rates: map[Fault]float64{}}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		rate, err := strconv.ParseFloat(value, 64)
		if err != nil || !(rate >= 0 && rate <= 1) {
			return Faults{}, fmt.Errorf("the rate of %q is not a number from 0 to 1; write it as %s=0.01", name, name)
		}
		switch {
		case name == "all":
			for _, f := range kinds {
				out.Rates[f] = rate
			}
		case slices.Contains(kinds, Fault(name)):
			out.Rates[Fault(name)] = rate
		default:
			return Faults{}, fmt.Errorf("%q is not a kind of fault; use one of all, %s", name, kindNames())
		}
	}
	return out, nil
}

// kinds lists all kinds of faults.
var kinds = []Fault{Outage, Drop, Slow, RateLimit, EmptyPage, Lapse, LostToken, Expire, Duplicate, Reorder, LostEvent,
	Unexpected}

func kindNames() string {
	var names []string
	for _, f := range kinds {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// Injector draws faults and counts them. It is safe for concurrent use. The n-th draw of
// a kind for a subject depends only on the seed, so that concurrent requests of several
// accounts do not change each other's faults.
type Injector struct {
	key Key

	mu      sync.Mutex
	faults  Faults           // guarded by mu
	drawn   map[string]int   // number of draws by kind and subject; guarded by mu
	counted map[Fault]uint64 // guarded by mu
}

// NewInjector returns an injector for one simulated cloud.
func NewInjector(seed uint64, cloud string, f Faults) *Injector {
	return &Injector{key: Key(seed).Named("faults " + cloud), faults: f, drawn: map[string]int{},
		counted: map[Fault]uint64{}}
}

// Draw reports whether the fault occurs now for a subject, such as an account or a
// subscription, and counts it.
func (in *Injector) Draw(f Fault, subject string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	rate := in.faults.Rates[f]
	if rate == 0 {
		return false
	}
	n := in.drawn[string(f)+" "+subject]
	in.drawn[string(f)+" "+subject] = n + 1
	if !in.key.Named(string(f)).Named(subject).With(n).Chance(rate) {
		return false
	}
	in.counted[f]++
	return true
}

// Count counts a fault that was injected without a draw.
func (in *Injector) Count(f Fault) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.counted[f]++
}

// Injected returns how many faults of each kind have been injected.
func (in *Injector) Injected() map[Fault]uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return maps.Clone(in.counted)
}

// SetRates replaces the probabilities. Draws continue where they are.
func (in *Injector) SetRates(rates map[Fault]float64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.faults.Rates = maps.Clone(rates)
}

// AddOutage adds an interval in which every request is answered 503.
func (in *Injector) AddOutage(w Window) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.faults.Outages = append(slices.Clone(in.faults.Outages), w)
}

// StatedLife returns the lifetime of access tokens to state: TokenLife of the
// configuration, or the vendor's.
func (in *Injector) StatedLife(vendor time.Duration) time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.faults.TokenLife != 0 {
		return in.faults.TokenLife
	}
	return vendor
}

// TokenLife returns how long the next access token of a subject is valid: the stated
// lifetime, or a tenth of it if Expire occurs.
func (in *Injector) TokenLife(vendor time.Duration, subject string) time.Duration {
	life := in.StatedLife(vendor)
	if in.Draw(Expire, subject) {
		life /= 10
	}
	return life
}

// Lapsed reports whether the membership of a wearer is lapsed at t: in some periods of 30
// days, for one to five days.
func (in *Injector) Lapsed(w Wearer, t time.Time) bool {
	in.mu.Lock()
	rate := in.faults.Rates[Lapse]
	in.mu.Unlock()
	if rate == 0 {
		return false
	}
	hour := int(t.Unix() / 3600)
	k := in.key.Named("lapse").With(w.Index, hour/(30*24))
	from := k.With(1).Between(0, 24*24)
	hour %= 30 * 24
	return k.Chance(rate) && hour >= from && hour < from+k.With(2).Between(24, 5*24)
}

// Before injects the faults that replace or delay an answer. It reports true if it has
// answered; the caller then returns. It panics with http.ErrAbortHandler to drop the
// connection, as net/http documents.
func (in *Injector) Before(w http.ResponseWriter, r *http.Request, subject string, now time.Time) bool {
	in.mu.Lock()
	outages, slowBy := in.faults.Outages, in.faults.SlowBy
	in.mu.Unlock()
	if slices.ContainsFunc(outages, func(o Window) bool { return o.Contains(now) }) {
		in.Count(Outage)
		http.Error(w, `{"detail":"Service Unavailable"}`, http.StatusServiceUnavailable)
		return true
	}
	if in.Draw(Slow, subject) {
		if slowBy == 0 {
			slowBy = 2 * time.Second
		}
		pause(r.Context(), slowBy)
	}
	switch {
	case in.Draw(Drop, subject):
		panic(http.ErrAbortHandler)
	case in.Draw(Outage, subject):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader([]int{500, 502, 503, 504}[in.key.Named(subject).With(len(r.URL.RawQuery)).Between(0, 3)])
		_ = json.NewEncoder(w).Encode(map[string]string{"detail": "Internal Server Error"}) // the client may be gone
		return true
	case in.Draw(Unexpected, subject):
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprint(w, "<!DOCTYPE html><title>Please wait</title>") // the client may be gone
		return true
	}
	return false
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
