package rest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"pulsegate/fhir/access"
)

// TestPageLinks tests that a page link works only for its client and search, discloses
// nothing, and cannot be forged.
func TestPageLinks(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.tokens["other"] = grant(w.consents, access.Rule{Type: "*", May: cruds})
		for i := range 12 {
			id := fmt.Sprintf("o%02d", i)
			w.put("Observation/"+id, observation(id, "p1", "vital-signs", 60+i), 201)
			if i%3 == 0 {
				w.put("Observation/"+id, observation(id, "p1", "vital-signs", 80+i), 200)
			}
		}
		for _, path := range []string{"/Observation?patient=p1&_count=3",
			"/Observation?_count=3&_sort=-_lastUpdated", "/Observation?_count=3&_sort=-date&patient=p1",
			"/Observation?_count=3&_sort=-value-quantity,code", "/Observation?_count=3&code=8867-4&_total=accurate",
			"/Observation/o00/_history?_count=1"} {
			link := w.want(200, "all", "GET", path, "").link("next")
			if link == "" {
				t.Fatalf("%s has no next page", path)
			}
			first := w.want(200, "all", "GET", link, "")
			if again := w.want(200, "all", "GET", link, ""); len(first.ids()) == 0 ||
				fmt.Sprint(first.ids()) != fmt.Sprint(again.ids()) {
				t.Errorf("%s: pages %v and %v by one link", path, first.ids(), again.ids())
			}
			if self := first.link("self"); self != link {
				t.Errorf("self of the second page is %s, its link was %s", self, link)
			}
			w.forged(path, link)
		}
	})
}

// forged tries what a client might do with a page link.
func (w *world) forged(path, link string) {
	w.t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		w.t.Fatal(err)
	}
	page := u.Query().Get("__page")
	if page == "" || strings.Contains(link, "__t=") {
		w.t.Fatalf("%s is not sealed", link)
	}
	flipped := []byte(page)
	for _, i := range []int{0, 1, len(flipped) / 2, len(flipped) - 2} {
		flipped[i] ^= 'A' ^ 'B'
		w.want(400, "all", "GET", strings.Replace(link, page, url.QueryEscape(string(flipped)), 1), "")
		flipped[i] ^= 'A' ^ 'B'
	}
	for _, client := range []string{"other", "vitals", "reader"} {
		w.want(400, client, "GET", link, "")
	}
	for _, p := range []string{
		strings.Replace(link, "_count=", "_count=1", 1), // another query
		strings.Replace(link, page, page[:len(page)-4], 1),
		strings.Replace(link, page, page+page, 1),
		strings.Replace(link, page, "", 1) + "x",
		link + "&__page=" + page,
		path + "&__t=1", path + "&__t=1&__after=", path + "&__t=1&__before=9", path + "&__after=x",
	} {
		w.want(400, "all", "GET", p, "")
	}
	if strings.Contains(path, "_history") {
		w.want(400, "all", "GET", "/Observation?__page="+page, "")
		w.want(400, "all", "GET", strings.Replace(link, "/o00/", "/o03/", 1), "")
		return
	}
	w.want(400, "all", "GET", link+"&status=final", "")
	w.want(400, "all", "GET", strings.Replace(link, "/Observation?", "/Patient?", 1), "")
	w.want(400, "all", "GET", "/Observation?__page="+page, "")
	b := w.want(200, "all", "POST", "", `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Observation?_count=1&__page=`+page+`&_sort=date"}}]}`)
	if !strings.Contains(string(b.body), `"status":"400`) {
		w.t.Errorf("in a batch: %s", b.body)
	}
}

// TestPageLinksOfPersons tests that an app cannot use a link under the authorization
// of another person, or under another authorization of the same person.
func TestPageLinksOfPersons(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	w.persons = map[string]access.Principal{
		"ada":         {ClientID: "app", Subject: "ada", Authorization: "1", TokenID: "a"},
		"ada renewed": {ClientID: "app", Subject: "ada", Authorization: "1", TokenID: "b"},
		"ada again":   {ClientID: "app", Subject: "ada", Authorization: "2", TokenID: "c"},
		"bob":         {ClientID: "app", Subject: "bob", Authorization: "3", TokenID: "d"}}
	for i := range 4 {
		id := fmt.Sprintf("o%02d", i)
		w.put("Observation/"+id, observation(id, "p1", "vital-signs", 60+i), 201)
	}
	link := w.want(200, "ada", "GET", "/Observation?_count=2", "").link("next")
	w.want(200, "ada", "GET", link, "")
	w.want(200, "ada renewed", "GET", link, "")
	w.want(400, "ada again", "GET", link, "")
	w.want(400, "bob", "GET", link, "")
}

// TestPageLinksAndDeletion tests that resources deleted after the first page, and data
// whose consent was withdrawn, are missing on later pages, even as includes.
func TestPageLinksAndDeletion(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for i := range 9 {
			id := fmt.Sprintf("o%02d", i)
			body := observation(id, "p1", "vital-signs", 60+i)
			if i > 2 {
				body = strings.Replace(body, `"status"`, `"device":{"reference":"Device/d1"},"status"`, 1)
			}
			if i == 3 {
				w.put("Device/d1", `{"resourceType":"Device","id":"d1","patient":{"reference":"Patient/p1"}}`, 201)
			}
			w.put("Observation/"+id, body, 201)
		}
		paths := []string{"/Observation?_count=2&_include=Observation:device",
			"/Observation?_count=2&_sort=_lastUpdated&_include=Observation:device",
			"/Observation?_count=2&_sort=value-quantity&_include=Observation:device"}
		for _, path := range paths {
			link := w.want(200, "all", "GET", path, "").link("next")
			before := w.want(200, "all", "GET", link, "").ids()
			if len(before) < 2 || !strings.HasPrefix(before[len(before)-2], "Observation/") {
				t.Fatalf("the second page: %v", before)
			}
			gone, changed := strings.TrimPrefix(before[len(before)-2], "Observation/"),
				strings.TrimPrefix(before[len(before)-1], "Observation/")
			if before[0] != "Device/d1" && path == paths[0] {
				t.Fatalf("the second page: %v", before)
			}
			w.want(204, "all", "DELETE", "/Observation/"+gone, "")
			w.want(200, "all", "PUT", "/Observation/"+changed, observation(changed, "p1", "vital-signs", 99))
			after := w.want(200, "all", "GET", link, "")
			if strings.Contains(string(after.body), "Observation/"+gone+`"`) ||
				!strings.Contains(string(after.body), "Observation/"+changed+`"`) ||
				strings.Contains(string(after.body), `"value":99`) {
				t.Errorf("%s: after a deletion of %s: %v", path, gone, after.ids())
			}
			for _, id := range []string{gone, changed} {
				w.do("all", "PUT", "/Observation/"+id,
					strings.Replace(observation(id, "p1", "vital-signs", 70), `"status"`,
						`"device":{"reference":"Device/d1"},"status"`, 1))
			}
		}
		path := "/Observation?_count=2&_include=Observation:device"
		link := w.want(200, "all", "GET", path, "").link("next")
		for i := 3; i < 9; i++ {
			id := fmt.Sprintf("o%02d", i)
			w.put("Observation/"+id, observation(id, "p1", "vital-signs", 60+i), 200)
		}
		w.want(204, "all", "DELETE", "/Device/d1", "")
		if a := w.want(200, "all", "GET", link, ""); strings.Contains(string(a.body),
			`"fullUrl":"`+w.srv.URL+`/fhir/Device/d1"`) {
			t.Errorf("a deleted resource is included: %s", a.body)
		}
		w.consents.set("p1", true)
		if a := w.want(200, "all", "GET", link, ""); len(a.ids()) != 0 {
			t.Errorf("after a withdrawal: %s", a.body)
		}
	})
}

// TestPageLinksOutliveTheProcess tests that the key is in the store.
func TestPageLinksOutliveTheProcess(t *testing.T) {
	st := drivers["pebble"](t)
	w := newWorld(t, st)
	for i := range 4 {
		id := fmt.Sprintf("o%02d", i)
		w.put("Observation/"+id, observation(id, "p1", "vital-signs", 60+i), 201)
	}
	link := w.want(200, "all", "GET", "/Observation?_count=2", "").link("next")
	key, err := st.Get(context.Background(), "page/key")
	if err != nil || len(key) != 32 {
		t.Fatalf("the key of page links: %d bytes, %v", len(key), err)
	}
	other := serve(t, st)
	other.want(200, "all", "GET", strings.Replace(link, w.srv.URL, other.srv.URL, 1), "")
}
