"""From results to what people look at: tables, figures, pictures, pages."""
