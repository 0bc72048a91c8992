-- Grades an essay in several respects at once, then gives advice.
return program{
 args = {essay = "string", dims = {type = "list", items = "string", max = 16,
  default = {"clarity", "accuracy", "style", "depth"}}},
 main = function(s, a)
  s:open("user"):add("Essay:\n", a.essay, "\n\n")
  local marks = s:map(a.dims, function(b, dim)
   b:add("Grade its ", dim, " from 1 to 10."):close()
   return b:open("assistant"):add("Grade:"):gen{name = "grade", dtype = "int", max_tokens = 3}
  end)
  s:add("Grades: ", json.encode(marks), ". Give one sentence of advice."):close()
  return {marks = marks, advice = s:assistant{name = "advice", max_tokens = 48}}
 end}
