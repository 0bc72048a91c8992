-- A conversation: each question is asked behind the answers before it, which stay in the KV cache.
return program{
 args = {questions = {type = "list", items = "string", min = 1}},
 main = function(s, a)
  s:system "You answer in one short sentence."
  local out = {}
  for i, q in ipairs(a.questions) do
   s:user(q)
   out[i] = s:assistant{name = "answer" .. i, max_tokens = 48}
  end
  return out
 end}
