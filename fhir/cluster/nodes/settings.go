package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Settings holds a hash of the content of each setting that must be the same in all
// processes of a cluster, by name. It holds nothing secret.
type Settings map[string]string

// settingsKey is the key of the row by which processes start one after another as far as
// their settings are concerned. Every start writes it.
const settingsKey = "cluster/settings"

// agreement is the value of that row.
type agreement struct {
	// Variants are the settings that processes may start with: one, or two while an
	// operator changes a setting from process to process.
	Variants []Settings `json:"variants"`
	Starts   uint64     `json:"starts"`
	Roll     Roll       `json:"roll,omitzero"`
}

// Roll allows processes to start with another content of some settings until a time.
type Roll struct {
	Settings []string  `json:"settings"`
	Until    time.Time `json:"until"`
}

// Difference is a setting in which live processes differ. Nodes holds their names by the
// hash of the content.
type Difference struct {
	Setting string              `json:"setting"`
	Nodes   map[string][]string `json:"nodes"`
}

// Differences returns the settings in which processes differ, by name.
func Differences(list []Node) (out []Difference) {
	all := map[string]map[string][]string{}
	for _, n := range list {
		for name, hash := range n.Settings {
			if all[name] == nil {
				all[name] = map[string][]string{}
			}
			all[name][hash] = append(all[name][hash], n.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if len(all[name]) > 1 {
			out = append(out, Difference{name, all[name]})
		}
	}
	return out
}

// differing returns the names of the settings that both have with another content.
func (s Settings) differing(o Settings) (names []string) {
	for name, hash := range s {
		if other, ok := o[name]; ok && other != hash {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// same returns a function that reports whether settings do not differ from s.
func (s Settings) same(o Settings) bool { return len(s.differing(o)) == 0 }

// maxStarts bounds the attempts of Admit to write the row. Each failure is the start of
// another process.
const maxStarts = 100

// Admit lets this process take part with its settings, or returns an error that names the
// setting and the process that has another content. It is called before the process does
// anything else in the cluster. It tells the others that the process lives. If the settings
// are not those of the last start, it first listens for the time after which a process that
// is not heard counts as dead.
//
// Of two processes that start at the same time, one writes the row first. The other looks
// again, and sees it among the living.
func (r *Registry) Admit(ctx context.Context) (err error) {
	const op = "nodes.Admit"
	self := r.opts.Self()
	if err := r.Beat(ctx); err != nil {
		return fhir.Wrap(op, err)
	}
	defer func() {
		if err != nil {
			r.leave(context.WithoutCancel(ctx))
		}
	}()
	waited := false
	for range maxStarts {
		have, old, err := r.agreement(ctx)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		others, err := r.others(ctx)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		replaces, err := have.admit(self, others, r.opts.Clock())
		if (replaces || err != nil) && !waited {
			// A process that has the former settings may be dead, or not have been heard.
			if err := r.listen(ctx); err != nil {
				return fhir.Wrap(op, err)
			}
			waited = true
			continue
		}
		if err != nil {
			return err
		}
		have.Starts++
		ok, err := r.agree(ctx, have, old)
		if ok || err != nil {
			return fhir.Wrap(op, err)
		}
	}
	return fhir.Errorf(fhir.Unavailable, op, "too many servers start at the same time")
}

// admit adds the settings of a process. It reports whether they replace others that no
// process uses.
func (a *agreement) admit(self Node, others []Node, now time.Time) (replaces bool, err error) {
	if slices.ContainsFunc(a.Variants, self.Settings.same) {
		return false, nil
	}
	var used []Settings
	for _, v := range a.Variants {
		i := slices.IndexFunc(others, func(n Node) bool { return n.Settings != nil && v.same(n.Settings) })
		if i < 0 {
			continue
		}
		used = append(used, v)
		for _, name := range self.Settings.differing(v) {
			if !a.Roll.allows(name, now) {
				return false, fhir.Errorf(fhir.Conflict, "nodes.Admit",
					"%s: its content is another one than at the server %s "+
						"(%s here, %s there); all servers of a cluster must have the same", name, others[i].Name,
					self.Settings[name], v[name])
			}
		}
	}
	if len(used) > 1 {
		return false, fhir.Errorf(fhir.Conflict, "nodes.Admit", "the servers have two contents of %s already; "+
			"finish that change first", strings.Join(used[0].differing(used[1]), ", "))
	}
	replaces = len(a.Variants) > 0 && len(used) == 0
	a.Variants = append(used, self.Settings)
	return replaces, nil
}

func (r Roll) allows(name string, now time.Time) bool {
	return now.Before(r.Until) && slices.Contains(r.Settings, name)
}

// agreement reads the row, and returns its value, too.
func (r *Registry) agreement(ctx context.Context) (a agreement, value []byte, err error) {
	if value, err = r.opts.State.Get(ctx, settingsKey); err == nil && value != nil {
		err = json.Unmarshal(value, &a)
	}
	return a, value, err
}

// agree replaces the row. It reports false if another process was faster.
func (r *Registry) agree(ctx context.Context, a agreement, old []byte) (bool, error) {
	value, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	w := store.StateWrite{Key: settingsKey, Value: value, Expect: store.StateAbsent}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	_, err = r.opts.State.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if fhir.KindOf(err) == fhir.Conflict {
		return false, nil
	}
	return err == nil, err
}

// others returns the live processes without this one and its former self.
func (r *Registry) others(ctx context.Context) ([]Node, error) {
	self := r.opts.Self()
	list, err := r.Nodes(ctx)
	return slices.DeleteFunc(list, func(n Node) bool {
		return n.Instance == self.Instance || n.Dir != "" && n.Dir == self.Dir && n.Name == self.Name
	}), err
}

// listen waits until every live process has been heard, and no dead one counts as live.
func (r *Registry) listen(ctx context.Context) error {
	t := time.NewTicker(r.opts.Interval)
	defer t.Stop()
	for range life + 1 {
		if err := r.Beat(ctx); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Rolling returns the last permission to change settings from process to process. It may
// have ended.
func (r *Registry) Rolling(ctx context.Context) (Roll, error) {
	a, _, err := r.agreement(ctx)
	return a.Roll, fhir.Wrap("nodes.Rolling", err)
}

// Roll permits processes to start with another content of settings until a time, so that
// they can be restarted one after another. The zero Roll ends the permission.
func (r *Registry) Roll(ctx context.Context, roll Roll) error {
	const op = "nodes.Roll"
	for range maxStarts {
		a, old, err := r.agreement(ctx)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		a.Roll = roll
		if ok, err := r.agree(ctx, a, old); ok || err != nil {
			return fhir.Wrap(op, err)
		}
	}
	return fhir.Errorf(fhir.Unavailable, op, "too many servers start at the same time")
}

// String describes a permission, for operators: "mapping-packs until TIME".
func (r Roll) String() string {
	return fmt.Sprintf("%s until %s", strings.Join(r.Settings, ", "), r.Until.UTC().Format(time.RFC3339))
}
