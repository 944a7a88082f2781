package sync

import (
	"context"
	"errors"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
)

// hookRetry is the time after which subscriptions that failed are tried again.
const hookRetry = time.Hour

// subscribe makes the subscriptions of an account what they should be, if the vendor
// keeps them by account and they are due. It returns only the errors that end the turn:
// a vendor that cannot reach the webhook must not keep the account from being polled.
func (e *Engine) subscribe(ctx context.Context, r *reader) error {
	n, ok := r.vendor.Vendor.(cloud.AccountNotifier)
	h, now := &r.task.plan.Hook, e.Clock()
	if !ok || e.Hooks == "" {
		*h = hook{} // a plan of another configuration must not be due
		return nil
	}
	if h.Due.After(now) && !r.link.Connected.After(h.Tried) {
		return nil
	}
	var next time.Time
	err := r.authorized(ctx, func() (err error) {
		next, err = n.SubscribeAccount(ctx, r.client, e.Hooks+"/"+r.vendor.Code(), r.link.Scopes)
		return err
	})
	if ctx.Err() != nil {
		return err
	}
	problem, isCloud := errors.AsType[*cloud.Error](err)
	if isCloud && problem.Problem == cloud.Unauthorized {
		return err
	}
	*h = hook{Due: maxTime(next, now.Add(time.Minute)), Tried: now}
	if err != nil {
		*h = hook{Due: now.Add(max(hookRetry, waitFor(problem, 0))), Tried: now, Failed: true}
		e.log(err, r.task, "the account could not be subscribed to")
	} else {
		h.Due = now.Add(jitter(h.Due.Sub(now), r.link.ID, "hook", now))
	}
	return fhir.Wrap("sync.subscribe", e.savePlan(ctx, r.task))
}
