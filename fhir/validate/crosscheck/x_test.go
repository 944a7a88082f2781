package crosscheck
import ("testing";"fmt")
func TestX(t *testing.T){
 for _, b := range []string{
 `{"resourceType":"Patient","_id":{"extension":[{"url":"http://a.test","valueCode":"c"}]}}`,
 `{"resourceType":"Patient","id":"x","_id":{"extension":[{"url":"http://a.test","valueCode":"c"}]}}`,
 `{"resourceType":"Patient","name":[{"text":"x","_id":{"extension":[{"url":"http://a.test","valueCode":"c"}]}}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","_url":{"extension":[{"url":"http://a.test","valueCode":"c"}]},"valueCode":"x"}]}`,
 `{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns='http://www.w3.org/1999/xhtml'>a</div>","_div":{"id":"x"}}}`,
 `{"resourceType":"Patient","name":[{"id":"x"}]}`,
 `{"resourceType":"Patient","name":[{"text":"a\u0001b"}]}`,
 `{"resourceType":"Patient","identifier":[{"value":"a\u0001b"}]}`,
 `{"resourceType":"Patient","meta":{"tag":[{"code":"a\u0001b"}]}}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueMarkdown":"a\u0001b"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueInteger":2147483647}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueInteger":-2147483648}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueInteger":-0}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueDecimal":1e5}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueTime":"08:00:60"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueTime":"08:00:00.1234567890123"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueDateTime":"2026-03-01T08:00:00.1234567890123Z"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueDateTime":"2026-03-01T08:00:60Z"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"b","valueDateTime":"2026"}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueBase64Binary":"aGVs bG8="}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueReference":{"reference":"Parameters/1"}}]}`,
 `{"resourceType":"Patient","extension":[{"url":"http://b.test","valueReference":{"reference":"x/1"}}]}`,
 `{"resourceType":"Parameters","parameter":[{"name":"a","resource":{"resourceType":"Parameters","parameter":[{"name":"b","valueCode":"c"}]}}]}`,
 `{"resourceType":"Patient","contained":[{"resourceType":"Parameters","id":"a"}],"extension":[{"url":"http://b.test","valueReference":{"reference":"#a"}}]}`,
 }{
  err := google().Check([]byte(b))
  fmt.Println(b[24:], "\n   mine:", verdict(b[17:17+map[bool]int{true:7,false:10}[b[17:20]=="Pat"]], []byte(b)), "\n   google:", err)
 }
}
