-- An outline first, then all its points at the same time, then a summary of what they became.
return program{
 args = {question = "string", points = {type = "int", default = 4, min = 2}},
 main = function(s, a)
  s:add("Question: ", a.question, "\nOutline:")
  for i = 1, a.points do
   s:add("\n", i, "."):gen{name = "point" .. i, max_tokens = 12, stop = "\n"}
  end
  s:fork(a.points, function(b, i)
   b:add("\n\nPoint ", i, " in full:"):gen{name = "body", max_tokens = 64, stop = "\n"}
  end):join{mode = "concat", vars = true}
  s:add("\n\nIn short:"):gen{name = "summary", max_tokens = 32, stop = "\n"}
  return {bodies = s.v.body, summary = s.v.summary}
 end}
