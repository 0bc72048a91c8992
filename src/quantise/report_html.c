#include "quantise/report.h"

void quantise_report_html(const struct quantise_report *report, struct buffer *out)
{
    (void)report;
    buffer_append_str(out, "<html></html>");
}
