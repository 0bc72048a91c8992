-- Few-shot classification; made for batches, whose items share the examples.
local shots = {{"A joy from start to end.", "positive"}, {"I want my money back.", "negative"},
 {"It arrived on Tuesday.", "neutral"}}
return program{
 args = {text = "string"},
 main = function(s, a)
  s:add "Label each review as positive, negative or neutral.\n\n"
  for _, x in ipairs(shots) do s:add("Review: ", x[1], "\nLabel: ", x[2], "\n\n") end
  local label, info = s:add("Review: ", a.text, "\nLabel:"):select{name = "label",
   choices = {" positive", " negative", " neutral"}, method = "unconditional_likelihood_normalized"}
  return {label = label:sub(2), margin = info.margin}
 end}
